"""Measures of features, in NumPy and float64, without JAX."""
