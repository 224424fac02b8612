"""Scaling laws: from runs, or a table of them, to laws with intervals."""
