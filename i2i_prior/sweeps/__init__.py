"""Sweeps: many runs planned, launched, watched and collected."""
