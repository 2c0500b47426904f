"""Thermal faces in the wild, several in an image, with boxes and five points; see README.md beside this file."""
