"""Stages, one training step, the loop around it, checkpoints, and how arrays lie on devices."""
