"""The maths of diffusion, without networks: paths, losses, samplers."""

from i2i_prior.diffusion.guidance import classifier_free, guide
from i2i_prior.diffusion.objectives import add_noise, draw_times, loss
from i2i_prior.diffusion.paths import PATHS, Path, get_path
from i2i_prior.diffusion.predictions import PREDICTIONS, convert, to_eps, to_x0
from i2i_prior.diffusion.samplers import sample
from i2i_prior.diffusion.solvers import SOLVERS, time_grid

__all__ = [
    "PATHS",
    "PREDICTIONS",
    "SOLVERS",
    "Path",
    "add_noise",
    "classifier_free",
    "convert",
    "draw_times",
    "get_path",
    "guide",
    "loss",
    "sample",
    "time_grid",
    "to_eps",
    "to_x0",
]
