"""Synthetic paired RGB and thermal faces with exact landmarks; see README.md beside this file."""
