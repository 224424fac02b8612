"""Evaluation of a prior: feature statistics, metrics and their intervals.

No weights are included. A Frechet distance is called FID only over the
published Inception weights, which are given by file; the built-in features are
computed from pixels, and distances over them have names of their own.
"""
