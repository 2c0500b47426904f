"""Face crops of YouTube Faces with machine-made landmarks; research use only; see README.md beside this file."""
