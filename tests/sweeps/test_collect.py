"""What `sweep collect` makes of the runs of a sweep."""

from __future__ import annotations

import csv
import json

import pytest

from i2i_prior.config import frozen_config
from i2i_prior.scaling_laws.points import read_csv
from i2i_prior.sweeps.collect import rows
from i2i_prior.sweeps.planning import plan_folder
from i2i_prior.training.resilience.exit_status import write_result

SWEEP = """
from i2i_prior.config import load_config
from i2i_prior.sweeps.spec.algebra import axis, product
from i2i_prior.sweeps.spec.plan import SweepSpec

def get_sweep(arg=""):
    base = load_config({tiny!r})
    budgets = axis("budget", {{1e9: {{}}}})
    return SweepSpec("tiny", base, product(budgets, axis("seed", [0, 1, 2])))
"""
METRIC = "validation/ema_uniform"
LAST = {
    "step": 6,
    METRIC: 0.25,
    f"{METRIC}_standard_error": 0.004,
    "validation/raw_uniform": 0.375,
}


@pytest.fixture(scope="module")
def sweep(tiny_spec, tmp_path_factory):
    """Run 0 is done, run 1 has diverged, run 2 was never started."""
    folder = tmp_path_factory.mktemp("sweeps")
    file = folder / "seeds.py"
    file.write_text(SWEEP.format(tiny=tiny_spec))
    sweep = plan_folder(str(file), folder / "out")
    ends = {"done": 6, "diverged": 3}
    for run, (outcome, step) in zip(sweep.runs, ends.items(), strict=False):
        workdir = sweep.workdir(run.id)
        workdir.mkdir(parents=True)
        lines = [{"step": k, "loss": 1 / k} for k in range(1, step + 1)]
        lines = [json.dumps(line) for line in (*lines, LAST)]
        (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        config = frozen_config(sweep.config(run.id))
        write_result(workdir, config, step, outcome)
    return sweep


def test_the_plan_counts_what_a_run_counts(sweep, run_directory):
    run = sweep.runs[0]  # the same config but for its name and evaluations
    facts = json.loads((run_directory / "metadata.json").read_text())
    assert facts["trained_parameters"] == run.parameters
    assert facts["flops_per_step"] * run.steps == run.model_flops
    assert facts["data_examples"] * run.epochs == run.examples


def test_rows_say_what_came_of_each_run(sweep):
    done, diverged, planned = rows(sweep)
    result = json.loads((sweep.workdir(done["id"]) / "result.json").read_text())
    metric = "validation/ema_uniform"
    assert done["state"] == "done"
    assert done["value"] == result["metrics"][metric] > 0
    assert done["standard_error"] > 0
    assert done["metrics"] == result["metrics"]
    assert (done["learning_rate"], done["batch_size"]) == (1e-2, 8)
    assert done["step"] == done["steps"] == 6
    assert done["labels"] == {"budget": 1e9, "seed": 0}
    assert diverged["state"] == "diverged"
    assert diverged["value"] != diverged["value"]  # NaN
    assert (diverged["step"], diverged["standard_error"]) == (3, None)
    assert (planned["state"], planned["value"]) == ("planned", None)
    raw = rows(sweep, "validation/raw_uniform")[0]
    assert raw["value"] == 0.375


def test_the_csv_is_what_fit_reads(command, sweep, tmp_path):
    ended = command("sweep", "collect", sweep.path)
    assert ended.code == 0, ended.err
    out = sweep.path / "results.csv"
    assert f"{out}: 3 runs (1 done, 1 diverged, 1 planned)" in ended.out
    with out.open() as file:
        first = next(csv.DictReader(file))
    run = sweep.runs[0]
    assert int(first["params"]) == run.parameters
    assert float(first["flops"]) == run.flops
    assert first["seed"] == "0"
    table = read_csv(out)
    (point,) = table.points
    assert (point.id, point.n, point.d, point.c) == (
        *(run.id, run.parameters, run.tokens, run.flops),
    )
    assert (point.loss, point.standard_error) == (0.25, 0.004)
    assert float(point.budget or 0) == 1e9
    assert len(table.excluded) == 2

    elsewhere = tmp_path / "deep" / "r.csv"
    arguments = ("--out", elsewhere, "--metric", "train_loss")
    assert command("sweep", "collect", sweep.path, *arguments).code == 0
    assert read_csv(elsewhere).points[0].loss == pytest.approx(1 / 6)


def test_mistakes_of_collect(command, sweep, tmp_path):
    ended = command("sweep", "collect", sweep.path, "--metric", "fid")
    assert ended.code == 1
    assert "no ended run has the metric fid; there are train_loss" in ended.err
    ended = command("sweep", "collect", tmp_path)
    assert ended.code == 1
    assert "is no sweep" in ended.err
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "r.csv"
    ended = command("sweep", "collect", sweep.path, "--out", out)
    assert ended.code == 1
    assert "cannot write" in ended.err
