"""Applies trained networks to users' images; imports nothing from `training`."""
