"""Measuring a prior: streamed feature statistics and what is made of them.

Nothing here brings weights along. A Frechet distance is called FID only over
the published Inception weights, which are named by file; the built-in features
are computed from pixels, and distances over them have names of their own.
"""

from i2i_prior.evaluation.features.resize import resize
from i2i_prior.evaluation.measures.extrapolate import fd_infinity
from i2i_prior.evaluation.measures.frechet import (
    Factor,
    frechet_distance,
    reference_factor,
)
from i2i_prior.evaluation.measures.inception_score import inception_score
from i2i_prior.evaluation.measures.intervals import Interval, block_interval
from i2i_prior.evaluation.measures.kernels import cmmd, kid
from i2i_prior.evaluation.measures.neighbours import prdc, precision_recall
from i2i_prior.evaluation.measures.reconstruction import psnr, ssim
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

__all__ = [
    "Factor",
    "FeatureStatistics",
    "Interval",
    "block_interval",
    "cmmd",
    "fd_infinity",
    "frechet_distance",
    "inception_score",
    "kid",
    "prdc",
    "precision_recall",
    "psnr",
    "reference_factor",
    "resize",
    "ssim",
]
