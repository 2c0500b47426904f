"""Face Synthetics made thermal, warm and cold, with 70 landmarks; see README.md beside this file."""
