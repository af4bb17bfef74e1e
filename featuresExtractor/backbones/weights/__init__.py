"""Weights: fetched once, read without running anything, fitted to their network by name and shape."""
