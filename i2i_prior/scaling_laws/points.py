"""Tables of runs that laws are fitted to: read from CSV, checked, grouped.

Symbols: n parameters, d tokens seen, c training FLOPs, loss the metric.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError

ROLES = ("fit", "holdout", "tune")
LARGEST = 1e100  # of any number: their products stay finite
FLAT = 1e-6  # share of the loss: no validation resolves as little
# Runs are of one budget up to this factor between neighbours, and this one
# between the first and the last: a long chain of neighbours is no budget.
NEIGHBOURS, SPAN = 1.12, 1.25
COUNTS = ("params", "tokens", "flops")
NUMBERS = (*COUNTS, "loss", "standard_error", "learning_rate", "epochs")
SIX_ND = {
    "flops": "6 x params x tokens",
    "tokens": "flops / (6 x params)",
    "params": "flops / (6 x tokens)",
}


@dataclass(frozen=True)
class Point:
    """One run; None for what is not known."""

    id: str
    n: float  # trained parameters
    d: float  # tokens seen
    c: float  # training FLOPs
    loss: float  # the metric, positive
    role: str = "fit"  # or holdout (to be predicted), tune (learning rates)
    budget: str | None = None  # name of its isoFLOP budget
    standard_error: float | None = None  # of the loss
    learning_rate: float | None = None
    epochs: float | None = None  # passes over the data
    series: str = ""  # learning rates are compared within it, as "mup"


@dataclass(frozen=True)
class Source:
    """The run directory of a point, and its facts that laws do not use."""

    folder: Path
    step: int  # at its end, as are the examples
    examples: float
    overhead: float  # FLOPs of all networks, frozen ones too, over the point's
    overrides: dict[str, Any]  # config fields that make its size, if known
    metrics: dict[str, float]  # all finite ones of result.json


@dataclass(frozen=True)
class Curve:
    """Training curve of a run: FLOPs so far (k,) and the metric there (k,)."""

    point: Point
    flops: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Table:
    """All runs."""

    points: list[Point]  # those that count
    excluded: list[tuple[str, str]] = field(default_factory=list)  # id, why
    notes: list[str] = field(default_factory=list)  # on computed columns
    metric: str = "loss"  # name of the metric in `loss`
    curves: list[Curve] = field(default_factory=list)
    # of points from run directories, by id
    sources: dict[str, Source] = field(default_factory=dict)

    def of(self, role: str) -> list[Point]:
        """The points of a role."""
        return [point for point in self.points if point.role == role]


def column(points: Iterable[Point], name: str) -> np.ndarray:
    """An attribute of all points, (n,) float64; NaN for None."""
    values = [getattr(point, name) for point in points]
    return np.array([math.nan if v is None else v for v in values], float)


def mean_flops(points: Iterable[Point]) -> float:
    """Geometric mean of the training FLOPs."""
    return float(np.exp(np.log(column(points, "c")).mean()))


def groups(points: list[Point]) -> list[list[Point]]:
    """Points of one budget together, budgets ascending, sizes ascending.

    By `budget` where all have one, else by clusters of log FLOPs. Digits
    are never rounded: 1.5e19 and 2.4e19 are two budgets.
    """
    found: list[list[Point]] = []
    if all(point.budget is not None for point in points):
        for name in dict.fromkeys(point.budget for point in points):
            found.append([p for p in points if p.budget == name])
    else:
        for point in sorted(points, key=lambda p: p.c):
            if found and point.c <= min(
                found[-1][-1].c * NEIGHBOURS, found[-1][0].c * SPAN
            ):
                found[-1].append(point)
            else:
                found.append([point])
    found.sort(key=mean_flops)
    return [sorted(group, key=lambda p: p.n) for group in found]


def read_csv(path: Path, metric: str = "loss") -> Table:
    """Reads params, tokens, flops, loss, and more columns where given.

    One of the first three may be left out where two determine it by
    C = 6 N D; a note names it. More columns: role (fit, holdout, tune), id,
    budget (or group), standard_error, learning_rate, epochs, series. A run
    with a loss that is not finite has diverged: it is excluded.

    Raises:
      UserError: for a file that cannot be read or used, in one sentence.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = [(reader.line_num, row) for row in reader if not _empty(row)]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path} ({error}); give a CSV file with the columns "
            "params,tokens,flops,loss"
        ) from error
    if len(set(names)) < len(names):
        raise UserError(
            f"{path} names a column twice ({', '.join(names)}); rename one"
        )
    if "loss" not in names:
        raise UserError(
            f"{path} has no column loss (it has {', '.join(names) or 'none'}); "
            "its first line names the columns params,tokens,flops,loss"
        )
    known = [name for name in COUNTS if name in names]
    if len(known) < 2:
        raise UserError(
            f"{path} has {' and '.join(known) or 'none'} of the columns "
            "params, tokens, flops; two at least are needed"
        )
    points: list[Point] = []
    excluded: list[tuple[str, str]] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        point = _point(f"line {line} of {path}", f"line {line}", row)
        # Compared as text, in which NaN equals NaN.
        key = point.id if "id" in names else str(replace(point, id=""))
        if key in seen:
            raise UserError(
                f"line {line} of {path} repeats line {seen[key]}; remove one "
                "(runs that differ only in their seed need an id each)"
            )
        seen[key] = line
        if math.isfinite(point.loss):
            points.append(point)
        else:
            excluded.append((point.id, _missing_loss(row)))
    notes = [
        f"{name} = {formula}, as {path.name} has no column {name}"
        for name, formula in SIX_ND.items()
        if name not in names
    ]
    return Table(points, excluded, notes, metric)


def _empty(row: dict) -> bool:
    """Returns True for a row of commas alone, the end of many spreadsheets."""
    return not any(
        isinstance(v, list) or (v or "").strip() for v in row.values()
    )


def _point(place: str, name: str, row: dict) -> Point:
    """The run of a row; `place` is named in errors, `name` its id if none."""
    if None in row:
        raise UserError(
            f"{place} has more values than there are columns; "
            "numbers are written without commas"
        )
    texts = {key: (value or "").strip() for key, value in row.items()}
    numbers: dict[str, float | None] = {}
    for key in NUMBERS:
        text = texts.get(key, "")
        try:
            numbers[key] = float(text) if text else None
        except ValueError:
            raise UserError(
                f"{place}: {key} is {text!r}, not a number"
            ) from None
    for key in COUNTS:
        value = numbers[key]
        if key in row and not (value and 0 < value < LARGEST):
            raise UserError(
                f"{place}: {key} is {texts[key]!r}; it must be a positive "
                f"number, less than {LARGEST:.0e}"
            )
    for key in ("learning_rate", "standard_error"):
        value = numbers[key]
        zero = value == 0 and key == "standard_error"
        if not (value is None or zero or 0 < value < LARGEST):
            raise UserError(
                f"{place}: {key} is {texts[key]!r}; leave it empty where it is "
                "not known"
            )
    role = texts.get("role") or "fit"
    if role not in ROLES:
        raise UserError(
            f"{place}: role is {role!r}; it is one of {', '.join(ROLES)}"
        )
    loss = math.nan if numbers["loss"] is None else numbers["loss"]
    if math.isfinite(loss) and not 1 / LARGEST < loss < LARGEST:
        raise UserError(
            f"{place}: loss is {loss:g}, and laws are fitted to its logarithm; "
            "give a positive metric, of any unit "
            f"from {1 / LARGEST:.0e} to {LARGEST:.0e}"
        )
    n, d, c = (numbers[key] or math.nan for key in COUNTS)
    if "flops" not in row:
        c = 6 * n * d
    elif "tokens" not in row:
        d = c / (6 * n)
    elif "params" not in row:
        n = c / (6 * d)
    return Point(
        id=texts.get("id") or name,
        n=n,
        d=d,
        c=c,
        loss=loss,
        role=role,
        budget=texts.get("budget") or texts.get("group") or None,
        standard_error=numbers["standard_error"],
        learning_rate=numbers["learning_rate"],
        epochs=numbers["epochs"],
        series=texts.get("series", ""),
    )


def _missing_loss(row: dict) -> str:
    """Reason for a loss that is not finite; a sweep's table has a state."""
    state = row.get("state") or ""
    if state not in ("", "done"):
        return str(state)
    return "diverged: its loss is not finite" if row["loss"] else "no loss yet"
