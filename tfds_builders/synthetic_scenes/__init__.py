"""Thermal scenes with any number of faces, to train a detector; see README.md beside this file."""
