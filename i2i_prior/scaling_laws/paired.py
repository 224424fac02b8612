"""Do neighbours in size differ by more than the validation's own error?

All runs of a sweep are validated on the same images, noise and times, so two
of them are compared image by image: most of the spread over images is the
images' own and cancels. What another seed of training would change is not in
this error; it shows in the residuals of the laws.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
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

LEAST = 2.0  # standard errors from which a difference is one
# What decides whether two checkpoints were validated alike.
SAME = ("source", "fingerprint", "examples")


@dataclass(frozen=True)
class Pair:
    """Two runs of one budget, neighbours in size.

    Attributes:
      c: FLOPs of the budget, of the smaller run.
      smaller, larger: ids.
      difference: loss of the larger less that of the smaller.
      standard_error: of the difference.
      paired: whether it is of the same images; else the two runs' standard
        errors taken together, which is several times coarser.
    """

    c: float
    smaller: str
    larger: str
    difference: float
    standard_error: float
    paired: bool

    @property
    def ratio(self) -> float:
        """The difference in standard errors, without its sign."""
        error = self.standard_error
        return abs(self.difference) / error if error > 0 else float("inf")

    @property
    def resolved(self) -> bool:
        """Whether the validation tells the two apart."""
        return self.ratio >= LEAST


def compare(table: Table) -> list[Pair]:
    """Neighbours in size within each budget, runs of role fit.

    Pairs of which no standard error is known are left out.
    """
    tables = _reader(table)
    found = []
    for group in groups(table.of("fit")):
        for one, other in itertools.pairwise(group):
            pair = _pair(one, other, tables)
            if pair is not None and one.n < other.n:
                found.append(pair)
    return found


def _pair(
    one: Point,
    other: Point,
    tables: Callable[[str], tuple[np.ndarray, list] | None],
) -> Pair | None:
    ours, theirs = tables(one.id), tables(other.id)
    ends = one.c, one.id, other.id
    if ours and theirs and ours[1] == theirs[1]:
        return Pair(*ends, *difference(theirs[0], ours[0]), paired=True)
    if one.standard_error is None or other.standard_error is None:
        return None
    error = float(np.hypot(one.standard_error, other.standard_error))
    return Pair(*ends, other.loss - one.loss, error, paired=False)


def _reader(
    table: Table,
) -> Callable[[str], tuple[np.ndarray, list] | None]:
    """A function of ids: losses (N,) of the images, and what these were."""
    known: dict[str, tuple[np.ndarray, list] | None] = {}
    named = re.fullmatch(
        rf"{FOLDER}/(ema|raw)_(uniform|training)", table.metric
    )

    def look(name: str) -> tuple[np.ndarray, list] | None:
        if name not in known:
            source = table.sources.get(name)
            known[name] = (
                _images(source, *named.groups()) if named and source else None
            )
        return known[name]

    return look


def _images(
    source: Source, kind: str, mean: str
) -> tuple[np.ndarray, list] | None:
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
        return None  # a run of before these files, or one that was pruned
