"""One file per run; `common.py` holds what they share."""
