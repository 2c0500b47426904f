"""The user's own images: RGB-thermal pairs, thermal alone or RGB alone; see README.md beside this file."""
