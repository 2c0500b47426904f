"""The generator of paired RGB and thermal faces."""
