"""Scores, tables, ablations, pseudo labels and plots of trained networks."""
