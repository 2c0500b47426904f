"""The user's own pictures: RGB-thermal pairs, thermal alone or RGB alone; see README.md beside this file."""
