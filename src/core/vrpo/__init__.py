"""Variance-reduced preference optimization (arXiv:2505.19223v2)."""
