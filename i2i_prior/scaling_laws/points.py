"""The runs a law is fitted to, as a table: read from CSV, checked, grouped.

Words: n are parameters, d tokens seen, c training FLOPs, loss the metric.
"""

from __future__ import annotations

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
# in all: a chain of near ones is no budget.
NEIGHBOURS, SPAN = 1.12, 1.25
NUMBERS = (
    *("params", "tokens", "flops", "loss"),
    *("standard_error", "learning_rate", "epochs"),
)


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
      id: its name.
      n: trained parameters.
      d: tokens seen.
      c: training FLOPs.
      loss: the metric, positive.
      role: fit, holdout (laws must predict it) or tune (learning rates).
      budget: name of the group of as many FLOPs; None where nobody said.
      standard_error: of the loss; None where not known.
      learning_rate: None where not known.
      epochs: passes over the data; None where not known.
      series: what learning rates are compared within, as "mup"; see `rates`.
    """

    id: str
    n: float
    d: float
    c: float
    loss: float
    role: str = "fit"
    budget: str | None = None
    standard_error: float | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    series: str = ""


@dataclass(frozen=True)
class Source:
    """Where a run lies, and what laws take no notice of.

    Attributes:
      folder: the run directory.
      step, examples: at its end.
      overhead: FLOPs of all networks, frozen ones too, over those that count.
      overrides: config fields that make its size, {} where not known.
      metrics: all finite ones of result.json.
    """

    folder: Path
    step: int
    examples: float
    overhead: float
    overrides: dict[str, Any]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """A run while it trained: FLOPs so far (k,) and the metric there (k,)."""

    point: Point
    flops: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Table:
    """All runs.

    Attributes:
      points: those that count.
      excluded: (id, why) of those that do not.
      notes: what was done to the data, to be said aloud.
      metric: what `loss` is.
      curves: training curves, where there are any.
      sources: of points that come of run directories, by id.
    """

    points: list[Point]
    excluded: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metric: str = "loss"
    curves: list[Curve] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)

    def of(self, role: str) -> list[Point]:
        """The points of a role."""
        return [point for point in self.points if point.role == role]


def column(points: Iterable[Point], name: str) -> np.ndarray:
    """An attribute of all points, (n,) float64; NaN for None."""
    values = [getattr(point, name) for point in points]
    return np.array([math.nan if v is None else v for v in values], float)


def groups(points: list[Point]) -> list[list[Point]]:
    """Points of one budget together, budgets ascending, sizes ascending.

    By `budget` where all have one, else by clusters of log FLOPs. Digits
    are never rounded: 1.5e19 and 2.4e19 are two budgets.
    """
    if all(point.budget is not None for point in points):
        named: dict[str | None, list[Point]] = {}
        for point in points:
            named.setdefault(point.budget, []).append(point)
        found = list(named.values())
    else:
        found = []
        for point in sorted(points, key=lambda p: p.c):
            if found and _near(found[-1], point):
                found[-1].append(point)
            else:
                found.append([point])
    found.sort(key=lambda group: float(np.log(column(group, "c")).mean()))
    return [sorted(group, key=lambda p: p.n) for group in found]


def _near(group: list[Point], point: Point) -> bool:
    return point.c <= min(group[-1].c * NEIGHBOURS, group[0].c * SPAN)


def read_csv(path: Path, metric: str = "loss") -> Table:
    """Reads params, tokens, flops, loss, and more columns where given.

    Of the first three any may be left out where two determine it by
    C = 6 N D, which a note says. More columns: role (fit, holdout, tune), id,
    budget (or group), standard_error, learning_rate, epochs. A loss that is
    not finite is a run that diverged: it is left out and named.

    Raises:
      UserError: for what cannot be read, in one sentence.
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
    _check_columns(path, names)
    missing = [n for n in ("params", "tokens", "flops") if n not in names]
    points: list[Point] = []
    excluded: list[tuple[str, str]] = []
    seen: dict[tuple, int] = {}
    for line, row in rows:
        point = _point(path, line, row, missing)
        key = (point.id,) if "id" in names else _key(point)
        if key in seen:
            raise UserError(
                f"line {line} of {path} repeats line {seen[key]}; remove one "
                "(runs that differ only in their seed need an id each)"
            )
        seen[key] = line
        if not math.isfinite(point.loss):
            excluded.append((point.id, _why_none(row)))
        elif not 1 / LARGEST < point.loss < LARGEST:
            raise UserError(
                f"line {line} of {path}: loss is {point.loss:g}, and laws are "
                "fitted to its logarithm; give a positive metric, of any unit "
                f"from {1 / LARGEST:.0e} to {LARGEST:.0e}"
            )
        else:
            points.append(point)
    notes = [
        f"{name} = {how}, as {path.name} has no column {name}"
        for name, how in (
            ("flops", "6 x params x tokens"),
            ("tokens", "flops / (6 x params)"),
            ("params", "flops / (6 x tokens)"),
        )
        if name in missing
    ]
    return Table(points, excluded, notes, metric)


def _empty(row: dict) -> bool:
    """Whether a row is commas alone, as spreadsheets end their tables."""
    return not any(
        isinstance(v, list) or (v or "").strip() for v in row.values()
    )


def _check_columns(path: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise UserError(
            f"{path} names a column twice ({', '.join(names)}); rename one"
        )
    if "loss" not in names:
        raise UserError(
            f"{path} has no column loss (it has {', '.join(names) or 'none'}); "
            "its first line names the columns params,tokens,flops,loss"
        )
    known = [n for n in ("params", "tokens", "flops") if n in names]
    if len(known) < 2:
        raise UserError(
            f"{path} has {' and '.join(known) or 'none'} of the columns "
            "params, tokens, flops; two at least are needed"
        )


def _point(path: Path, line: int, row: dict, missing: list[str]) -> Point:
    if None in row:
        raise UserError(
            f"line {line} of {path} has more values than there are columns; "
            "numbers are written without commas"
        )
    texts = {name: (value or "").strip() for name, value in row.items()}
    numbers: dict[str, float | None] = {}
    for name in NUMBERS:
        text = texts.get(name, "")
        try:
            numbers[name] = float(text) if text else None
        except ValueError:
            raise UserError(
                f"line {line} of {path}: {name} is {text!r}, not a number"
            ) from None
    n, d, c = (numbers[name] for name in ("params", "tokens", "flops"))
    for name in ("params", "tokens", "flops"):
        value = numbers[name]
        if name not in missing and not (value and 0 < value < LARGEST):
            raise UserError(
                f"line {line} of {path}: {name} is {texts[name]!r}; it must be "
                f"a positive number, less than {LARGEST:.0e}"
            )
    for name in ("learning_rate", "standard_error"):
        value = numbers.get(name)
        zero = value == 0 and name == "standard_error"
        if not (value is None or zero or 0 < value < LARGEST):
            raise UserError(
                f"line {line} of {path}: {name} is {texts[name]!r}; leave it "
                "empty where it is not known"
            )
    if "flops" in missing:
        c = 6 * n * d  # type: ignore[operator]
    elif "tokens" in missing:
        d = c / (6 * n)  # type: ignore[operator]
    elif "params" in missing:
        n = c / (6 * d)  # type: ignore[operator]
    role = texts.get("role") or "fit"
    if role not in ROLES:
        raise UserError(
            f"line {line} of {path}: role is {role!r}; it is one of "
            f"{', '.join(ROLES)}"
        )
    loss = numbers["loss"]
    return Point(
        id=texts.get("id") or f"line {line}",
        n=float(n or 0),
        d=float(d or 0),
        c=float(c or 0),
        loss=math.nan if loss is None else loss,
        role=role,
        budget=texts.get("budget") or texts.get("group") or None,
        standard_error=numbers["standard_error"],
        learning_rate=numbers["learning_rate"],
        epochs=numbers["epochs"],
        series=texts.get("series", ""),
    )


def _why_none(row: dict) -> str:
    """Why a run has no finite loss; a sweep's table has its state."""
    state = row.get("state") or ""
    if state not in ("", "done"):
        return str(state)
    return "diverged: its loss is not finite" if row["loss"] else "no loss yet"


def _key(point: Point) -> tuple:
    """What two lines of one run have alike, whatever their numbers."""
    plain = replace(point, id="")
    return (str(plain),)
