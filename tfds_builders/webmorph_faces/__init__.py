"""Frontal faces under a free licence, with hand-placed landmarks; see README.md beside this file."""
