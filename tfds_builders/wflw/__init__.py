"""WFLW: 98 landmarks and six attributes on faces of WIDER FACE; see README.md beside this file."""
