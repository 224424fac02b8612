"""Paired comparison of neighbours in size on the validation's images.

All runs of a sweep are validated on the same images, noise and times, so two
of them are compared image by image: most of the variance over images is
common to both and cancels. The variance over training seeds is not in this
error; it shows in the residuals of the laws.
"""

import itertools
import json
import re
from dataclasses import dataclass

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.validation_losses import (
    FOLDER,
    difference,
    document,
    read,
)
from i2i_prior.scaling_laws.points import Point, Source, Table, groups

LEAST = 2.0  # standard errors from which a difference is significant
# Facts of a validation that must be equal for its images to be paired.
SAME = ("source", "fingerprint", "examples")

_Images = tuple[np.ndarray, list]  # losses (N,), facts of the validation


@dataclass(frozen=True)
class Pair:
    """Two runs of one budget, neighbours in size."""

    c: float  # FLOPs of the smaller run
    smaller: str  # id
    larger: str
    difference: float  # loss of the larger less that of the smaller
    standard_error: float  # of the difference
    # Over the same images; else the standard errors of the two runs are
    # combined, which is several times larger.
    paired: bool

    @property
    def ratio(self) -> float:
        """Absolute difference in standard errors."""
        error = self.standard_error
        return abs(self.difference) / error if error > 0 else float("inf")

    @property
    def resolved(self) -> bool:
        """True if the difference is significant."""
        return self.ratio >= LEAST


def compare(table: Table) -> list[Pair]:
    """Compares neighbours in size within each budget, runs of role fit.

    Pairs without a known standard error are left out.
    """
    named = re.fullmatch(
        rf"{FOLDER}/(ema|raw)_(uniform|training)", table.metric
    )
    images = {
        name: _images(source, *named.groups())
        for name, source in table.sources.items()
        if named
    }
    found = []
    for group in groups(table.of("fit")):
        for one, other in itertools.pairwise(group):
            pair = _pair(one, other, images.get(one.id), images.get(other.id))
            if pair is not None and one.n < other.n:
                found.append(pair)
    return found


def _pair(
    one: Point, other: Point, ours: _Images | None, theirs: _Images | None
) -> Pair | None:
    ends = one.c, one.id, other.id
    if ours and theirs and ours[1] == theirs[1]:
        return Pair(*ends, *difference(theirs[0], ours[0]), paired=True)
    if one.standard_error is None or other.standard_error is None:
        return None
    error = float(np.hypot(one.standard_error, other.standard_error))
    return Pair(*ends, other.loss - one.loss, error, paired=False)


def _images(source: Source, kind: str, mean: str) -> _Images | None:
    """Losses of a run's validation; None where they were not kept."""
    try:
        losses = read(source.folder, source.step)[kind]
        about = json.loads(document(source.folder, source.step).read_text())
        levels = about["levels"]
        same = [about[name] for name in SAME]
        same.append([level["time"] for level in levels])
        if mean == "uniform":
            return losses.uniform(), same
        shares = np.array([level["share"] for level in levels])
        return losses.training(shares), [*same, list(shares)]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None  # from before these files, or removed since
