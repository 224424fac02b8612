"""Runs on disk as points: of a sweep, of a folder, done, torn, diverged."""

from __future__ import annotations

import json

import pytest

from i2i_prior.errors import UserError
from i2i_prior.scaling.laws.runs import METRIC, read_runs
from i2i_prior.sweeps.store import PlannedRun, Sweep, save_sweep


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
        total_flops=2e15,
        epochs=0.5,
    )


def write(folder, outcome="done", value=0.8, steps=200, **more):
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
            "metrics": {METRIC: value, f"{METRIC}_standard_error": 0.01},
        }
        (folder / "result.json").write_text(json.dumps(result | more))


def test_a_sweep_gives_planned_numbers_and_measured_losses(tmp_path):
    runs = [planned("a"), planned("b", 2000, "holdout"), planned("c", 3000)]
    runs += [planned("d"), planned("e")]
    sweep = Sweep(tmp_path, {"name": "s"}, runs)
    save_sweep(sweep)
    write(sweep.workdir("a"))
    write(sweep.workdir("b"), value=0.7)
    write(sweep.workdir("c"), None, steps=100)
    write(sweep.workdir("d"), "diverged", steps=100)
    table = read_runs([tmp_path])
    first, second = table.points
    assert (first.n, first.d, first.c) == (1000, 6400 * 64, 1e15)
    assert (first.loss, first.standard_error) == (0.8, 0.01)
    assert (first.budget, first.epochs) == ("1000000000000000.0", 0.5)
    assert first.learning_rate == 1e-3
    assert (second.role, second.loss) == ("holdout", 0.7)
    assert dict(table.excluded) == {
        "c": "unfinished: 50% of its steps",
        "d": "diverged",
        "e": "not begun",
    }
    assert table.metric == METRIC


def test_running_runs_give_their_curves_on_a_flops_axis(tmp_path):
    sweep = Sweep(tmp_path, {}, [planned("a"), planned("c", 3000)])
    save_sweep(sweep)
    write(sweep.workdir("a"))
    write(sweep.workdir("c"), None, steps=100)
    done, running = read_runs([tmp_path]).curves
    assert done.flops.tolist() == [0.25e15, 0.5e15, 0.75e15, 1e15]
    assert running.flops.tolist() == [0.25e15, 0.5e15]
    assert running.loss.tolist() == [1.375, 1.25]


def test_a_folder_of_runs_counts_by_the_cost_in_metadata(tmp_path):
    for name in ("x", "y"):
        write(tmp_path / name)
        cost = {"parameters": 500, "tokens": 64, "training_flops": 7e6}
        text = json.dumps({"cost": cost})
        (tmp_path / name / "metadata.json").write_text(text)
    write(tmp_path / "old")
    table = read_runs([tmp_path])
    assert [p.id for p in table.points] == ["x", "y"]
    point = table.points[0]
    assert (point.n, point.d, point.c) == (500, 6400 * 64, 6400 * 7e6)
    assert table.excluded[0][0] == "old"
    assert "no cost" in table.excluded[0][1]
    assert read_runs([tmp_path / "x"]).points == [point]


@pytest.mark.parametrize(
    ("value", "words"), [(None, "no finite"), (-1.0, "positive")]
)
def test_a_metric_that_is_no_loss_is_named(tmp_path, value, words):
    sweep = Sweep(tmp_path, {}, [planned("a"), planned("b")])
    save_sweep(sweep)
    write(sweep.workdir("a"))
    write(sweep.workdir("b"), value=value)
    assert words in dict(read_runs([tmp_path]).excluded)["b"]


def test_no_run_with_the_metric_is_one_sentence(tmp_path):
    sweep = Sweep(tmp_path, {}, [planned("a")])
    save_sweep(sweep)
    write(sweep.workdir("a"))
    with pytest.raises(UserError, match=f"eval/fid.*{METRIC}"):
        read_runs([tmp_path], "eval/fid")
    with pytest.raises(UserError, match="holds no runs"):
        read_runs([tmp_path / "attempts"])
