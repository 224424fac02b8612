"""A sweep's points become planned runs: named, hashed, checked, counted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from i2i_prior.config import flatten
from i2i_prior.config.fields import FIELDS, recorded
from i2i_prior.errors import UserError
from i2i_prior.sweeps.run.store import METRIC, PlannedRun
from i2i_prior.sweeps.spec.algebra import (
    Draft,
    LeftOutError,
    Point,
    Rule,
    typed,
)

if TYPE_CHECKING:
    from i2i_prior.flops.cost import Cost

LONGEST_NAME = 48  # characters, so that an id fits where engines want 63
_DEFAULTS = {name: field.default for name, field in FIELDS.items()}
# Fields that a `Cost` does not hang on: sections but for their dtypes, fields.
_COSTLESS = ("optim.", "train.", "sample.", "evaluate.", "validation.")
_COSTLESS_TOO = ("name", "seed", "data.source", "data.held_out")
# Numbers that `validate` holds to a range each and to nothing else: where the
# least and the largest of a sweep pass, so does what lies between.
_RANGED = (
    "train.log_every",
    "train.checkpoint_every",
    "validation.every",
    "seed",
    "train.steps",
    "train.ema_decay",
    "optim.learning_rate",
    "optim.warmup_steps",
)


@dataclass(frozen=True)
class SweepSpec:
    """What `get_sweep` of a sweep file returns.

    Attributes:
      name: of the sweep, in reports.
      base: the config that every run starts from.
      points: see `algebra`.
      metric: what laws are fitted to, a key of result.json's metrics.
      notes: what a reader of the plan should know, a sentence each.
    """

    name: str
    base: ConfigDict
    points: list[Point]
    metric: str = METRIC
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A sweep worked out.

    Attributes:
      spec: what it was made from.
      runs: in the order of the points.
      configs: run id -> all fields of its config, flat.
      left_out: of each point that is no run: its name and the reason.
    """

    spec: SweepSpec
    runs: list[PlannedRun]
    configs: dict[str, dict[str, Any]]
    left_out: list[str] = field(default_factory=list)


def make_plan(
    spec: SweepSpec,
    images: Callable[[str], int | None] = lambda source: None,
    devices: int = 1,
) -> Plan:
    """Works out each point's config, checks and counts it.

    Args:
      spec: the sweep.
      images: unique ones behind a SPEC of training data, for epochs; None
        where that is not known.
      devices: of the machine, for `validate`.

    Raises:
      UserError: names the run and its mistake; for two runs of one name or
        config, and where no run is left.
    """
    draftsman = _PlanBuilder(spec.base)
    runs, configs, left_out = [], {}, []
    for point in spec.points:
        name = run_name(point.labels)
        try:
            changed, cost = draftsman.draw(point)
        except LeftOutError as reason:
            left_out.append(f"{name}: {reason}")
            continue
        except UserError as error:
            raise UserError(f"run {name} of the sweep: {error}") from error
        flat = {**draftsman.base, **changed, "name": name}
        digest = config_digest(flat)
        examples = flat["train.steps"] * flat["data.batch_size"]
        unique = images(flat["data.source"])
        run = PlannedRun(
            id=f"{name}-{digest}",
            name=name,
            config_hash=digest,
            role=point.role,
            labels=dict(point.labels),
            overrides=changed,
            parameters=cost.parameters,
            steps=flat["train.steps"],
            examples=examples,
            tokens=examples * cost.tokens,
            flops=float(examples * cost.training_flops),
            model_flops=float(examples * cost.model_flops),
            epochs=examples / unique if unique else None,
        )
        runs.append(run)
        configs[run.id] = flat
    if not runs:
        why = f" ({left_out[0]})" if left_out else ""
        raise UserError(
            f"the sweep {spec.name} has no run{why}; widen its axes"
        )
    _refuse_twins(runs)
    _validate(spec.base, runs, configs, devices)
    return Plan(spec, runs, configs, left_out)


def run_name(labels: Mapping[str, Any]) -> str:
    """The words of a place, fit for file names: `w192-b1e13-lr0.001`.

    A number is named by the first letters of its axis.
    """
    words = [_word(axis, value) for axis, value in labels.items()]
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words)).strip("._-")
    return text[:LONGEST_NAME] or "run"


def _word(axis: str, value: Any) -> str:
    if isinstance(value, bool):
        return axis if value else f"no_{axis}"
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    if isinstance(value, int) and float(short) != value:
        short = str(value)  # 1000001 is not 1e6
    number = re.sub(r"e\+?(-?)0*", r"e\1", short)  # 1e+13 -> 1e13
    return "".join(word[0] for word in axis.split("_") if word) + number


def config_digest(flat: Mapping[str, Any]) -> str:
    """8 hex digits over all that a run does, whatever it is called.

    Over what differs from the defaults: a field that a later version adds
    leaves the ids of a sweep as they are.
    """
    own = {k: v for k, v in flat.items() if v != _DEFAULTS[k] and k != "name"}
    text = json.dumps(recorded(own), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def configured(base: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A copy of the base with typed overrides."""
    config = base.copy_and_resolve_references()
    _apply(config, overrides)
    return config


def _apply(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        section, _, leaf = name.rpartition(".")
        node = config[section] if section else config
        node[leaf] = value


class _PlanBuilder:
    """Applies points to one working copy of the base config, one by one.

    A copy for each would take most of the time of a large plan.
    """

    def __init__(self, base: ConfigDict) -> None:
        self.base = flatten(base)
        self._config = base.copy_and_resolve_references()
        self._costs: dict[frozenset[tuple[str, Any]], Cost] = {}

    def draw(self, point: Point) -> tuple[dict[str, Any], Cost]:
        """What differs from the base, rules applied, and what a run costs."""
        changed: dict[str, Any] = {}
        try:
            self._change(changed, point.overrides)
            for rule in point.rules:
                draft = Draft(self._config, point.labels, self._cost(changed))
                self._change(changed, _ruled(rule, draft))
            cost = self._cost(changed)
        finally:
            _apply(self._config, {name: self.base[name] for name in changed})
        base = self.base
        return {k: v for k, v in changed.items() if base[k] != v}, cost

    def _change(
        self, changed: dict[str, Any], overrides: Mapping[str, Any]
    ) -> None:
        for name, value in overrides.items():
            changed[name] = typed(name, value)
        _apply(self._config, {name: changed[name] for name in overrides})

    def _cost(self, changed: Mapping[str, Any]) -> Cost:
        from i2i_prior.flops.cost import run_cost

        key = frozenset(
            (name, value)
            for name, value in changed.items()
            if name.endswith("_dtype")
            or not (name.startswith(_COSTLESS) or name in _COSTLESS_TOO)
        )
        if key not in self._costs:
            self._costs[key] = run_cost(self._config)
        return self._costs[key]


def _ruled(rule: Rule, draft: Draft) -> dict[str, Any]:
    """What a rule gives; its mistakes are the sweep file's."""
    try:
        return dict(rule(draft))
    except (LeftOutError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"a rule of derived() fails ({type(error).__name__}: {error}); it "
            "gives a dict of fields"
        ) from error


def _refuse_twins(runs: list[PlannedRun]) -> None:
    names: dict[str, PlannedRun] = {}
    configs: dict[str, PlannedRun] = {}
    for run in runs:
        twin = configs.setdefault(run.config_hash, run)
        if twin is not run:
            raise UserError(
                f"runs {twin.name} and {run.name} of the sweep have one "
                "config; leave one out, or give them different seeds"
            )
        if names.setdefault(run.name, run) is not run:
            raise UserError(
                f"two runs of the sweep are called {run.name}; give what "
                "they differ in an axis with a short label of its own"
            )


def _validate(
    base: ConfigDict,
    runs: list[PlannedRun],
    configs: Mapping[str, Mapping[str, Any]],
    devices: int,
) -> None:
    from i2i_prior.models import encoder_families
    from i2i_prior.models.dit_config import check_config
    from i2i_prior.tasks.resolve import resolve
    from i2i_prior.training.validate import validate

    for run in _telling(runs, configs):
        try:
            config = configured(base, run.overrides)
            validate(config, devices)
            # Else heads that do not fit would show when the run is started.
            shapes = resolve(config)
            check_config(shapes.dit)
            if shapes.encoder is not None:
                encoder_families.check(shapes.encoder)
        except UserError as error:
            raise UserError(f"run {run.name} of the sweep: {error}") from error


def _telling(
    runs: list[PlannedRun], configs: Mapping[str, Mapping[str, Any]]
) -> Iterable[PlannedRun]:
    """Runs that are valid only if all are: see `_RANGED`."""
    chosen: dict[Any, PlannedRun] = {}
    for run in runs:
        key = frozenset(
            item for item in run.overrides.items() if item[0] not in _RANGED
        )
        chosen.setdefault(key, run)
    for name in _RANGED:
        values = {run.id: configs[run.id][name] for run in runs}
        chosen[name, "least"] = min(runs, key=lambda run: values[run.id])
        chosen[name, "most"] = max(runs, key=lambda run: values[run.id])
    return {run.id: run for run in chosen.values()}.values()
