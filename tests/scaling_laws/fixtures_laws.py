"""Synthetic sweeps: of benchmarks/law_coverage.py, as CSV, as folders."""

from __future__ import annotations

import csv
import importlib.util
import json

from i2i_prior.scaling_laws.runs import METRIC
from i2i_prior.sweeps.run.store import PlannedRun
from tests.conftest import ROOT

_spec = importlib.util.spec_from_file_location(
    "law_coverage", ROOT / "benchmarks" / "law_coverage.py"
)
assert _spec is not None
assert _spec.loader is not None
coverage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(coverage)


def write_csv(
    path, points, names=("params", "tokens", "flops", "loss"), **more
):
    """Writes points; `more` are columns, a value a point."""
    attributes = {"params": "n", "tokens": "d", "flops": "c"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *more])
        for k, point in enumerate(points):
            values = [getattr(point, attributes.get(n, n)) for n in names]
            writer.writerow([*values, *(column[k] for column in more.values())])
    return path


def planned(name, n=1000, role="fit", budget=1e15):
    return PlannedRun(
        id=name,
        name=name,
        config_hash="0" * 8,
        role=role,
        labels={"size": name, "budget": budget},
        overrides={},
        parameters=n,
        steps=200,
        examples=6400,
        tokens=6400 * 64,
        flops=1e15,
        model_flops=2e15,
        epochs=0.5,
    )


def write_run(folder, outcome="done", value=0.8, steps=200, **more):
    """A run directory as the trainer leaves it; no result for outcome None."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "optim.learning_rate": 1e-3,
        "train.steps": 200,
        "data.batch_size": 32,
    }
    (folder / "config.json").write_text(json.dumps({"config": config}))
    lines = [
        {"step": k, "loss": 1.0, METRIC: 1.5 - k / 400}
        for k in range(50, steps + 1, 50)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 2')
    if outcome:
        result = {
            "outcome": outcome,
            "step": steps,
            "steps": 200,
            "examples": steps * 32,
            "metrics": {
                METRIC: value,
                f"{METRIC}_standard_error": 0.01,
                **more,
            },
        }
        (folder / "result.json").write_text(json.dumps(result))
