"""Stages, one training step, the loop around it, checkpoints, and the layout of arrays on devices."""
