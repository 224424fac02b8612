"""Algebra of the runs of a sweep: lists of points, changes of one config.

    sizes = axis("size", {"w64": {"model.width": 64}, "w128": {...}})
    rates = axis("optim.learning_rate", [1e-4, 2e-4, 4e-4])
    points = product(sizes, rates)                 # 6 runs
    points = derived(points, lambda draft: {
        "optim.warmup_steps": draft.config.train.steps // 20})

Every function takes and returns plain lists of `Point`, and changes none. What
depends on the whole config (`derived`) is computed when the plan is made, with
the overrides of the base config.
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from i2i_prior.config import FIELDS, default_config, flatten, set_field
from i2i_prior.config.config import current
from i2i_prior.errors import UserError

if TYPE_CHECKING:
    from i2i_prior.flops.cost import Cost

ROLES = ("fit", "holdout", "tune")
_DEFAULTS = {name: field.default for name, field in FIELDS.items()}


class LeftOutError(Exception):
    """Raised by a rule of `derived` with the reason why a point is no run."""


@dataclass(frozen=True)
class Point:
    """Run of a sweep, as its difference from the base config."""

    # dotted field -> value, in the field's type
    overrides: Mapping[str, Any] = field(default_factory=dict)
    # axis -> value (text or number), for tables and laws
    labels: Mapping[str, Any] = field(default_factory=dict)
    # or "holdout" (laws must predict it), "tune" (no law is fitted to it)
    role: str = "fit"
    rules: tuple["Rule", ...] = ()  # of `derived`, in order; later ones win


@dataclass(frozen=True)
class Draft:
    """Run whose rules are being applied."""

    # Base, overrides of the command line, of the point and of earlier rules.
    # To read, not to keep: the next draft reuses it.
    config: ConfigDict
    labels: Mapping[str, Any]  # of the point
    cost: "Cost"  # `flops.cost.run_cost` of the config, counted once a shape


# Overrides that depend on a whole config.
Rule = Callable[[Draft], Mapping[str, Any]]


def axis(
    name: str,
    values: Mapping[Any, Mapping[str, Any]] | Iterable[Any],
    label: str = "",
    role: str = "fit",
) -> list[Point]:
    """Makes a point for each value.

    `name` is a config field for plain values, any text for a mapping, label ->
    overrides. `label` is that of the axis, else the last part of `name`; `role`
    is that of its points. UserError where there is no value, one is there twice
    or of another type than the field, or the field or role is unknown.
    """
    if role not in ROLES:
        raise UserError(
            f"sweep axis {name}: role {role!r} is unknown; choose "
            f"{' or '.join(ROLES)}"
        )
    label = label or name.rpartition(".")[2]
    if not isinstance(values, Mapping):
        name, _ = current(name, "")
        known = [typed(name, value) for value in values]
        for value, number in Counter(known).items():
            if number > 1:
                raise UserError(
                    f"sweep axis {name} has {value!r} twice; leave one out"
                )
        values = {value: {name: value} for value in known}
    if not values:
        raise UserError(f"sweep axis {name} has no value; give one or more")
    return [
        Point(_typed_all(overrides), {label: _shown(label, value)}, role)
        for value, overrides in values.items()
    ]


def product(*axes: list[Point]) -> list[Point]:
    """Combines each point of an axis with all of the others, last axis first.

    UserError where two axes set one field, or one label, differently.
    """
    return [_merged(points) for points in itertools.product(*axes)]


def zip_(*axes: list[Point]) -> list[Point]:
    """Combines the first points of all axes, then the second ones, ...

    UserError where lengths differ, or as `product`.
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
    """Concatenates lists."""
    return list(itertools.chain(*lists))


def where(
    points: list[Point],
    predicate: Callable[[Point], bool],
    then: Mapping[str, Any] | Callable[[Point], Mapping[str, Any]],
) -> list[Point]:
    """Adds overrides to points of which the predicate is true.

    They win over those of the point. `then` may be a function of the point.
    UserError where a field is unknown or a value of another type.
    """

    def changed(point: Point) -> Point:
        more = then(point) if callable(then) else then
        return replace(point, overrides={**point.overrides, **_typed_all(more)})

    return [changed(p) if predicate(p) else p for p in points]


def only(
    points: list[Point], predicate: Callable[[Point], bool]
) -> list[Point]:
    """Selects points of which the predicate is true."""
    return [point for point in points if predicate(point)]


def subsample(points: list[Point], n: int, seed: int = 0) -> list[Point]:
    """Draws at most n of the points, by a hash of their content.

    A larger n keeps the points of a smaller one, so a sweep can grow. The order
    stays. UserError where n is below 1.
    """
    if not isinstance(n, int) or n < 1:
        raise UserError(f"subsample of a sweep takes 1 or more, not {n}")

    def rank(index: int) -> tuple[bytes, int]:
        point = points[index]
        content = [seed, dict(point.labels), dict(point.overrides)]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).digest(), index

    drawn = sorted(sorted(range(len(points)), key=rank)[:n])
    return [points[index] for index in drawn]


def derived(points: list[Point], rule: Rule) -> list[Point]:
    """Adds a rule that depends on the whole config, as steps on a budget.

    It is a function of a `Draft` alone that returns overrides, or raises
    `LeftOutError`.
    """
    return [replace(point, rules=(*point.rules, rule)) for point in points]


def listed(text: str, kind: Callable[[str], Any] = str) -> list[Any]:
    """Splits an argument as `1e12+2e12`; `none` is the empty list.

    UserError where a part is not of this kind.
    """
    try:
        return [kind(p) for p in text.split("+")] if text != "none" else []
    except ValueError as error:
        raise UserError(
            f"sweep argument {text!r} is no list of numbers; write them with "
            "plus signs, as 1e12+2e12"
        ) from error


def typed(name: str, value: Any) -> Any:
    """Converts a value to the type of its field, as 1 to 1.0; UserError where
    the field is unknown, the type wrong, or a number not finite."""
    name, value = current(name, value)
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
    return {
        current(name, "")[0]: typed(name, value)
        for name, value in overrides.items()
    }


def _shown(label: str, value: Any) -> str | int | float:
    """Value of a label; NumPy's numbers become plain ones."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, str | int | float) or value != value:
        raise UserError(
            f"sweep axis {label} shows {value!r}; give text or a number"
        )
    return value


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
