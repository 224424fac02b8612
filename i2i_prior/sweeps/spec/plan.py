"""Plan of a sweep: its points as runs, named, hashed, checked, counted."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from i2i_prior.config import FIELDS, flatten, recorded
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

LONGEST_NAME = 48  # characters: an id must fit into the 63 of engines
_DEFAULTS = {name: field.default for name, field in FIELDS.items()}
# Fields that a `Cost` does not depend on: sections without dtypes, and fields.
_COSTLESS = ("optim.", "train.", "sample.", "evaluate.", "validation.")
_COSTLESS_FIELDS = ("name", "seed", "data.source", "data.held_out")
# Numbers that `validate` checks against a range and nothing else: where the
# least and the largest of a sweep pass, all others do.
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
    """Specification of a sweep, returned by `get_sweep` of a sweep file."""

    name: str  # of the sweep, in reports
    base: ConfigDict  # config that every run starts from
    points: list[Point]  # see `algebra`
    metric: str = METRIC  # that laws are fitted to, of result.json's metrics
    notes: tuple[str, ...] = ()  # sentences for the reader of the plan


@dataclass(frozen=True)
class Plan:
    """Planned runs of a sweep."""

    spec: SweepSpec
    runs: list[PlannedRun]  # in the order of the points
    configs: dict[str, dict[str, Any]]  # run id -> all fields, flat
    # "NAME: REASON" of each point that is no run
    left_out: list[str] = field(default_factory=list)


def make_plan(
    spec: SweepSpec,
    images: Callable[[str], int | None] = lambda source: None,
    devices: int = 1,
) -> Plan:
    """Applies the rules of a sweep's points, checks and counts its runs.

    `images` has the number of unique images of a SPEC of training data, for
    epochs, if known; `devices` are those of the machine, for `validate`.
    UserError for a mistake of a run, which is named; for two runs of one name
    or config; and if no run is left.
    """
    builder = _PlanBuilder(spec, images)
    for point in spec.points:
        builder.add(point)
    plan = builder.plan
    if not plan.runs:
        why = f" ({plan.left_out[0]})" if plan.left_out else ""
        raise UserError(
            f"the sweep {spec.name} has no run{why}; widen its axes"
        )
    _validate(plan, devices)
    return plan


def run_name(labels: Mapping[str, Any]) -> str:
    """Names a run by its labels, for file names: `w192-b1e13-lr0.001`.

    A number is preceded by the first letters of its axis.
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
    """8 hex digits over the fields but the name that are not at their defaults.

    A field that a later version adds leaves the ids of a sweep as they are.
    """
    own = {k: v for k, v in flat.items() if v != _DEFAULTS[k] and k != "name"}
    text = json.dumps(recorded(own), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def configured(base: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Copy of a base config with typed overrides."""
    config = base.copy_and_resolve_references()
    config.update_from_flattened_dict(overrides)
    return config


class _PlanBuilder:
    """Adds points to a plan, all on one working copy of the base config.

    A copy for each would take most of the time of a large plan.
    """

    def __init__(
        self, spec: SweepSpec, images: Callable[[str], int | None]
    ) -> None:
        self.plan = Plan(spec, [], {})
        self._images, self._base = images, flatten(spec.base)
        self._config = spec.base.copy_and_resolve_references()
        self._costs: dict[frozenset[tuple[str, Any]], Cost] = {}
        self._by_hash: dict[str, PlannedRun] = {}
        self._by_name: dict[str, PlannedRun] = {}

    def add(self, point: Point) -> None:
        """Adds a point as a run, or to those left out."""
        name = run_name(point.labels)
        try:
            overrides, cost = self._apply_rules(point)
        except LeftOutError as reason:
            self.plan.left_out.append(f"{name}: {reason}")
            return
        except UserError as error:
            raise UserError(f"run {name} of the sweep: {error}") from error
        flat = {**self._base, **overrides, "name": name}
        digest = config_digest(flat)
        examples = flat["train.steps"] * flat["data.batch_size"]
        unique = self._images(flat["data.source"])
        run = PlannedRun(
            id=f"{name}-{digest}",
            name=name,
            config_hash=digest,
            role=point.role,
            labels=dict(point.labels),
            overrides=overrides,
            parameters=cost.parameters,
            steps=flat["train.steps"],
            examples=examples,
            tokens=examples * cost.tokens,
            flops=float(examples * cost.training_flops),
            model_flops=float(examples * cost.model_flops),
            epochs=examples / unique if unique else None,
        )
        if (twin := self._by_hash.setdefault(digest, run)) is not run:
            raise UserError(
                f"runs {twin.name} and {name} of the sweep have one config; "
                "leave one out, or give them different seeds"
            )
        if self._by_name.setdefault(name, run) is not run:
            raise UserError(
                f"two runs of the sweep are called {name}; give what they "
                "differ in an axis with a short label of its own"
            )
        self.plan.runs.append(run)
        self.plan.configs[run.id] = flat

    def _apply_rules(self, point: Point) -> tuple[dict[str, Any], "Cost"]:
        """Overrides that differ from the base, rules applied, and the cost."""
        changed: dict[str, Any] = {}
        base = self._base
        try:
            self._change(changed, point.overrides)
            for rule in point.rules:
                draft = Draft(self._config, point.labels, self._cost(changed))
                self._change(changed, _rule_overrides(rule, draft))
            cost = self._cost(changed)
        finally:
            before = {name: base[name] for name in changed}
            self._config.update_from_flattened_dict(before)
        return {k: v for k, v in changed.items() if base[k] != v}, cost

    def _change(
        self, changed: dict[str, Any], overrides: Mapping[str, Any]
    ) -> None:
        more = {name: typed(name, value) for name, value in overrides.items()}
        changed |= more
        self._config.update_from_flattened_dict(more)

    def _cost(self, changed: Mapping[str, Any]) -> "Cost":
        from i2i_prior.flops.cost import run_cost

        key = frozenset(
            (name, value)
            for name, value in changed.items()
            if name.endswith("_dtype")
            or not (name.startswith(_COSTLESS) or name in _COSTLESS_FIELDS)
        )
        if key not in self._costs:
            self._costs[key] = run_cost(self._config)
        return self._costs[key]


def _rule_overrides(rule: Rule, draft: Draft) -> dict[str, Any]:
    """Applies a rule. Raises UserError for errors of the sweep file in it."""
    try:
        return dict(rule(draft))
    except (LeftOutError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"a rule of derived() fails ({type(error).__name__}: {error}); it "
            "gives a dict of fields"
        ) from error


def _validate(plan: Plan, devices: int) -> None:
    """Checks configs. Raises UserError with the name of the run."""
    from i2i_prior.models import encoder_families
    from i2i_prior.models.dit import check_config
    from i2i_prior.tasks.resolve import resolve
    from i2i_prior.training.validate import validate

    for run in _representatives(plan.runs, plan.configs):
        try:
            config = configured(plan.spec.base, run.overrides)
            validate(config, devices)
            # Else heads that do not fit would show when the run is started.
            shapes = resolve(config)
            check_config(shapes.dit)
            if shapes.encoder is not None:
                encoder_families.check(shapes.encoder)
        except UserError as error:
            raise UserError(f"run {run.name} of the sweep: {error}") from error


def _representatives(
    runs: list[PlannedRun], configs: Mapping[str, Mapping[str, Any]]
) -> Iterable[PlannedRun]:
    """Runs that are valid only if all runs are; see `_RANGED`."""
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
