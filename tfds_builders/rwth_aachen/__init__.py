"""High-resolution thermal faces of 90 people with 68 landmarks; see README.md beside this file."""
