"""Radiometric thermal faces of ten people, frontal and in profile; see README.md beside this file."""
