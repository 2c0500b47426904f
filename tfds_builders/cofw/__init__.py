"""COFW: 29 landmarks, each marked as visible or occluded; see README.md beside this file."""
