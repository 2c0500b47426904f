"""Pairs of thermal and RGB portraits with 54 hand-placed landmarks; see README.md beside this file."""
