"""Numbers from features: NumPy, float64, no JAX."""
