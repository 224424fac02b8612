"""A small algebra of runs: lists of points, each a change of one config.

    sizes = axis("size", {"w64": {"model.width": 64}, "w128": {...}})
    rates = axis("optim.learning_rate", [1e-4, 2e-4, 4e-4])
    points = product(sizes, rates)                 # 6 runs
    points = derived(points, lambda draft: {
        "optim.warmup_steps": draft.config.train.steps // 20})

Every function takes and gives plain lists of `Point`, and changes none. What
hangs on the whole config (`derived`) is worked out when the plan is made, so
that overrides of the base config count there too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from i2i_prior.config import default_config, flatten, set_field
from i2i_prior.config.fields import FIELDS
from i2i_prior.errors import UserError

if TYPE_CHECKING:
    from i2i_prior.flops.cost import Cost

ROLES = ("fit", "holdout", "tune")
_DEFAULTS = {name: field.default for name, field in FIELDS.items()}


class LeftOutError(Exception):
    """Raised by a rule of `derived`: this point is no run, and why."""


@dataclass(frozen=True)
class Point:
    """One run to be, as its difference from the sweep's base config.

    Attributes:
      overrides: dotted field -> value, in the field's type.
      labels: axis -> value (text or number): what tables show and laws fit.
      role: "fit", "holdout" (laws must predict it) or "tune" (of learning
        rates and the like: no law is fitted to it).
      rules: see `derived`; applied in this order, later ones win.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    role: str = "fit"
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A run while its rules are applied.

    Attributes:
      config: base, overrides of the command line and of the point, and what
        earlier rules said. To read, not to keep: the next draft reuses it.
      labels: of the point.
      cost: `scaling.cost.run_cost` of the config, counted once for each
        shape of what is trained.
    """

    config: ConfigDict
    labels: Mapping[str, Any]
    cost: Cost


# What a whole config asks for: overrides.
Rule = Callable[[Draft], Mapping[str, Any]]


def axis(
    name: str,
    values: Mapping[Any, Mapping[str, Any]] | Iterable[Any],
    label: str = "",
    role: str = "fit",
) -> list[Point]:
    """One point a value.

    Args:
      name: a config field for plain values; any word for a mapping.
      values: of the field; or what is shown -> the overrides behind it.
      label: of the axis, else the last part of `name`.
      role: of its points.

    Raises:
      UserError: for no value or one twice, an unknown field or role, or a
        value of another type than the field's.
    """
    if role not in ROLES:
        raise UserError(
            f"sweep axis {name}: role {role!r} is unknown; choose "
            f"{' or '.join(ROLES)}"
        )
    label = label or name.rpartition(".")[2]
    if not isinstance(values, Mapping):
        values = _named(name, [typed(name, value) for value in values])
    if not values:
        raise UserError(f"sweep axis {name} has no value; give one or more")
    return [
        Point(_typed_all(overrides), {label: _shown(label, value)}, role)
        for value, overrides in values.items()
    ]


def product(*axes: list[Point]) -> list[Point]:
    """All combinations; the last axis runs fastest.

    Raises:
      UserError: where two axes set one field, or one label, differently.
    """
    return [_merged(points) for points in itertools.product(*axes)]


def zip_(*axes: list[Point]) -> list[Point]:
    """First with first, second with second.

    Raises:
      UserError: where lengths differ, or as `product`.
    """
    lengths = [len(points) for points in axes]
    if len(set(lengths)) > 1:
        raise UserError(
            f"zip_ of a sweep takes axes of one length, not of "
            f"{', '.join(map(str, lengths))} points; use product for all "
            "combinations"
        )
    return [_merged(points) for points in zip(*axes, strict=True)]


def chain(*lists: list[Point]) -> list[Point]:
    """One list after the other."""
    return list(itertools.chain(*lists))


def where(
    points: list[Point],
    predicate: Callable[[Point], bool],
    then: Mapping[str, Any] | Callable[[Point], Mapping[str, Any]],
) -> list[Point]:
    """Points of which the predicate is true get further overrides.

    Those win over what the point has. `then` may be a function of the point.

    Raises:
      UserError: for an unknown field or a value of another type.
    """

    def changed(point: Point) -> Point:
        more = then(point) if callable(then) else then
        return replace(point, overrides={**point.overrides, **_typed_all(more)})

    return [changed(p) if predicate(p) else p for p in points]


def only(
    points: list[Point], predicate: Callable[[Point], bool]
) -> list[Point]:
    """Points of which the predicate is true."""
    return [point for point in points if predicate(point)]


def subsample(points: list[Point], n: int, seed: int = 0) -> list[Point]:
    """At most n of the points, drawn by their content, in their order.

    A larger n keeps what a smaller one drew, so a sweep can grow.

    Raises:
      UserError: for n below 1.
    """
    if not isinstance(n, int) or n < 1:
        raise UserError(f"subsample of a sweep takes 1 or more, not {n}")

    def lot(index: int) -> tuple[bytes, int]:
        point = points[index]
        content = [seed, dict(point.labels), dict(point.overrides)]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).digest(), index

    drawn = sorted(sorted(range(len(points)), key=lot)[:n])
    return [points[index] for index in drawn]


def derived(points: list[Point], rule: Rule) -> list[Point]:
    """Overrides that hang on a point's whole config, as steps on a budget.

    Args:
      points: those it holds for.
      rule: from a `Draft` to overrides, and of nothing else; it may raise
        `LeftOutError`.
    """
    return [replace(point, rules=(*point.rules, rule)) for point in points]


def listed(text: str, kind: Callable[[str], Any] = str) -> list[Any]:
    """The parts of an argument as `1e12+2e12`, which commas would cut.

    `none` has no part.

    Raises:
      UserError: for a part that is not of this kind.
    """
    try:
        return [kind(p) for p in text.split("+")] if text != "none" else []
    except ValueError as error:
        raise UserError(
            f"sweep argument {text!r} is no list of numbers; write them with "
            "plus signs, as 1e12+2e12"
        ) from error


def typed(name: str, value: Any) -> Any:
    """A value in the type of its field: 1 for a number becomes 1.0.

    Raises:
      UserError: for an unknown field, another type, or a number that is not
        finite.
    """
    default = _DEFAULTS.get(name)
    if isinstance(default, str) and not isinstance(value, str):
        raise UserError(f"config field {name} takes text, not {value!r}")
    if type(value) is not type(default):
        scratch = default_config()
        set_field(scratch, name, str(value))
        value = flatten(scratch)[name]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config field {name} is {value}; give a number")
    return value


def _typed_all(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: typed(name, value) for name, value in overrides.items()}


def _shown(label: str, value: Any) -> str | int | float:
    """A label's value; NumPy's numbers become plain ones."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, str | int | float) or value != value:
        raise UserError(
            f"sweep axis {label} shows {value!r}; give text or a number"
        )
    return value


def _named(name: str, values: list[Any]) -> dict[Any, dict[str, Any]]:
    named: dict[Any, dict[str, Any]] = {}
    for value in values:
        if value in named:
            raise UserError(
                f"sweep axis {name} has {value!r} twice; leave one out"
            )
        named[value] = {name: value}
    return named


def _merged(points: Iterable[Point]) -> Point:
    overrides: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    role = "fit"
    rules: list[Rule] = []
    for point in points:
        _add("field", overrides, point.overrides)
        _add("label", labels, point.labels)
        if "fit" not in (role, point.role) and role != point.role:
            raise UserError(
                f"two axes of a sweep give a point the roles {role} and "
                f"{point.role}; keep one of them"
            )
        role = point.role if role == "fit" else role
        rules += point.rules
    return Point(overrides, labels, role, tuple(rules))


def _add(what: str, all_: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name in all_ and all_[name] != value:
            raise UserError(
                f"two axes of a sweep set the {what} {name}, to "
                f"{all_[name]!r} and {value!r}; keep one of them"
            )
        all_[name] = value
