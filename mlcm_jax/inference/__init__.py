"""Trained networks on images of users; needs nothing of `training`."""
