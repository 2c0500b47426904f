"""The user's own images: RGB-thermal pairs, only thermal, or only RGB; see README.md beside this file."""
