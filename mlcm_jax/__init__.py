"""Facial landmarks in thermal images, and cross-modal knowledge distillation, in JAX and Flax."""

__version__ = "0.1.0"
