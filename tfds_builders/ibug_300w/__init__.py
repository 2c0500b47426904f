"""300W: 68 landmarks on faces of AFW, HELEN, LFPW and iBUG; see README.md beside this file."""
