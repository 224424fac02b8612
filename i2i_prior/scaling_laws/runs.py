"""Tables of run directories: of a sweep, or of any folder of runs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.io.files import read_json_or_empty
from i2i_prior.scaling_laws.points import Curve, Point, Source, Table
from i2i_prior.sweeps.run.store import METRIC, PlannedRun, open_sweep
from i2i_prior.training.telemetry.metric_writer import read_metrics

# Labels of a sweep that are scales or seeds; the others name a series.
_SCALES = ("budget", "size", "width", "learning_rate", "seed", "tokens")


def own_metric(folders: list[Path]) -> str:
    """The metric that sweeps were planned for. Raises UserError for several."""
    names = {
        str(open_sweep(folder).facts.get("metric") or METRIC)
        for folder in folders
        if (folder / "sweep.json").exists()
    }
    if len(names) > 1:
        raise UserError(
            f"these sweeps were planned for {' and '.join(sorted(names))}; "
            "choose one with --metric"
        )
    return names.pop() if names else METRIC


def read_runs(folders: list[Path], metric: str = METRIC) -> Table:
    """Reads the runs of sweeps, run directories, or folders of those.

    A finished run is a point. One that still trains is excluded, and its
    curve counts in the envelope; one that diverged is excluded. The metric is
    a name in result.json's metrics, and in metrics.jsonl.

    Raises:
      UserError: where a folder holds no run, or the metric is in none.
    """
    points: list[Point] = []
    excluded: list[tuple[str, str]] = []
    curves: list[Curve] = []
    known: set[str] = set()
    sources: dict[str, Source] = {}
    for folder in dict.fromkeys(path.resolve() for path in folders):
        for run, plan in _run_folders(folder):
            result = read_json_or_empty(run / "result.json")
            measured = result.get("metrics") or {}
            known |= set(measured)
            draft = _draft(run, plan, result)
            if isinstance(draft, str):
                excluded.append((run.name, draft))
                continue
            point, steps, source = draft
            if point.id in sources:
                if sources[point.id].folder == run:
                    continue
                if plan is not None:
                    again = f"the same run as in {sources[point.id].folder}"
                    excluded.append((str(run), again))
                    continue
                point = replace(point, id=str(run))
            lines = [
                line for line in read_metrics(run) if _number(line.get("step"))
            ]
            curve = _curve(lines, point, metric, steps)
            if curve is not None:
                curves.append(curve)
            value = _number(measured.get(metric))
            last = max((line["step"] for line in lines), default=0)
            why = _exclusion(result, value, metric, last / steps)
            if why or value is None:
                excluded.append((point.id, why or ""))
                continue
            sources[point.id] = source
            error = _number(measured.get(f"{metric}_standard_error"))
            points.append(replace(point, loss=value, standard_error=error))
    if not points:
        why = f": {excluded[0][0]}: {excluded[0][1]}" if excluded else ""
        names = sorted(n for n in known if not n.endswith("_standard_error"))
        more = f"; metrics there are {', '.join(names[:12])}" if names else ""
        raise UserError(
            f"no finished run with {metric} in "
            f"{', '.join(map(str, folders))}{why}{more}"
        )
    return Table(points, excluded, [], metric, curves, sources)


def _run_folders(folder: Path) -> list[tuple[Path, PlannedRun | None]]:
    """Run directories of a folder, with their plans where it is a sweep."""
    if (folder / "sweep.json").exists():
        sweep = open_sweep(folder)
        return [(sweep.workdir(run.id), run) for run in sweep.runs]
    if (folder / "config.json").exists():
        return [(folder, None)]
    runs = sorted(folder.glob("*/config.json")) if folder.is_dir() else []
    if not runs:
        raise UserError(
            f"{folder} holds no runs; give a sweep's folder, a run directory "
            "or a folder of run directories"
        )
    return [(file.parent, None) for file in runs]


def _draft(
    run: Path, plan: PlannedRun | None, result: dict[str, Any]
) -> tuple[Point, float, Source] | str:
    """The point without its loss, steps and source; or a reason for none."""
    config = read_json_or_empty(run / "config.json").get("config") or {}
    rate = _number(config.get("optim.learning_rate"))
    sizes: dict[str, Any] = {}
    if plan is not None:
        budget = plan.labels.get("budget")
        series = [
            str(value)
            for name, value in plan.labels.items()
            if name not in _SCALES
        ]
        point = Point(
            id=plan.id,
            n=plan.parameters,
            d=plan.tokens,
            c=plan.flops,
            loss=math.nan,
            role=plan.role,
            budget=None if budget is None else str(budget),
            learning_rate=rate,
            epochs=plan.epochs,
            series=" ".join(series),
        )
        sizes = {
            name: value
            for name, value in plan.overrides.items()
            if name.startswith(("model.", "encoder."))
        }
        ratio = plan.model_flops / plan.flops
        steps, examples = float(plan.steps), float(plan.examples)
    else:
        cost = read_json_or_empty(run / "metadata.json").get("cost") or {}
        batch = _number(config.get("data.batch_size")) or 0.0
        steps = _number(result.get("steps") or config.get("train.steps")) or 0.0
        examples = _number(result.get("examples")) or batch * steps
        names = ("parameters", "tokens", "training_flops")
        n, tokens, flops = (_number(cost.get(name)) or 0.0 for name in names)
        if not (examples and steps and n and tokens and flops):
            return "its metadata.json has no cost: an older version trained it"
        point = Point(
            id=run.name,
            n=n,
            d=tokens * examples,
            c=flops * examples,
            loss=math.nan,
            learning_rate=rate,
        )
        ratio = (_number(cost.get("model_flops")) or flops) / flops
    metrics = (result.get("metrics") or {}).items()
    return (
        point,
        steps,
        Source(
            folder=run,
            step=int(_number(result.get("step")) or 0),
            examples=examples,
            overhead=ratio,
            overrides=sizes,
            metrics={k: v for k, v in metrics if _number(v) is not None},
        ),
    )


def _exclusion(
    result: dict[str, Any], value: float | None, metric: str, share: float
) -> str | None:
    """Reason for excluding a run; `share` is the trained part of it."""
    if not result:
        return f"unfinished: {share:.0%} of its steps" if share else "not begun"
    if result.get("outcome") != "done":
        return str(result.get("outcome"))
    if value is None:
        return f"its result.json has no finite {metric}"
    if value <= 0:
        return f"its {metric} is {value:g}; laws need a positive metric"
    return None


def _curve(
    lines: list[dict[str, float]], point: Point, metric: str, steps: float
) -> Curve | None:
    """Curve of the metric over FLOPs, which are equal for all steps."""
    pairs = [(line["step"], _number(line.get(metric))) for line in lines]
    kept = [pair for pair in pairs if pair[0] > 0 and (pair[1] or 0.0) > 0]
    if not kept:
        return None
    done, loss = np.array(kept, float).T
    return Curve(point, point.c * done / steps, loss)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
