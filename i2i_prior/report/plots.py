"""Curves on a page, each with its name and its last value."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from i2i_prior.report.curves import (
    curve,
    short,
)
from i2i_prior.report.html import escape


def plots(
    lines: Sequence[Mapping[str, Any]],
    wanted: Iterable[tuple[str, str]],
    linear: Collection[str] = (),
) -> str:
    """A curve over the steps of each key that has two values or more.

    Args:
      lines: with "step", and (low, high) of an interval under KEY/interval.
      wanted: (key, title) of each.
      linear: keys whose axis is never logarithmic.
    """
    figures = []
    for key, title in wanted:
        points = [
            (
                line["step"],
                line[key],
                *line.get(f"{key}/interval", (math.nan, math.nan)),
            )
            for line in lines
            if isinstance(line.get(key), float | int)
        ]
        finite = [point[1] for point in points if math.isfinite(point[1])]
        if len(finite) >= 2:
            steps, values, *band = np.array(points, float).T
            figures.append(
                f'<figure class="plot"><figcaption>{escape(title)}'
                f"<b>{escape(short(finite[-1]))}</b></figcaption>"
                f"{curve(steps, values, key in linear, np.array(band))}"
                "</figure>"
            )
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""
