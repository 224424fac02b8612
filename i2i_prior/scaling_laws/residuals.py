"""How far runs lie off the parametric law."""

from __future__ import annotations

import numpy as np

from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.points import column
from i2i_prior.scaling_laws.uncertainty import log_loss


def gaps_of(fitted: Fitted, points: list) -> np.ndarray:
    """log measured - log predicted (k,) of runs by the parametric law."""
    assert fitted.law is not None
    n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
    return np.log(loss) - log_loss(fitted.law.values, n, d)
