"""Reads datasets and image files, makes batches of them, and draws landmarks."""
