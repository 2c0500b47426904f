"""Thermal faces in the wild, several in a picture, with boxes and five points; see README.md beside this file."""
