"""Measuring a prior: streamed feature statistics, Frechet distances, retrieval.

Nothing here needs weights from elsewhere: the built-in features are computed
from pixels, and a distance over them is never called FID.
"""
