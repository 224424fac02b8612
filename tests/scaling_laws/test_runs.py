"""Runs on disk as points: of a sweep, of a folder, done, torn, diverged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from i2i_prior.errors import UserError
from i2i_prior.scaling_laws.runs import METRIC, own_metric, read_runs
from i2i_prior.sweeps.run.store import Sweep, save_sweep
from tests.scaling_laws.fixtures_laws import planned
from tests.scaling_laws.fixtures_laws import write_run as write


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
    sweep = Sweep(tmp_path, {"name": "s"}, [planned("a"), planned("c", 3000)])
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
    sweep = Sweep(tmp_path, {"name": "s"}, [planned("a"), planned("b")])
    save_sweep(sweep)
    write(sweep.workdir("a"))
    write(sweep.workdir("b"), value=value)
    assert words in dict(read_runs([tmp_path]).excluded)["b"]


def test_no_run_with_the_metric_is_one_sentence(tmp_path):
    sweep = Sweep(tmp_path, {"name": "s"}, [planned("a")])
    save_sweep(sweep)
    write(sweep.workdir("a"))
    with pytest.raises(UserError, match=f"eval/fid.*{METRIC}"):
        read_runs([tmp_path], "eval/fid")
    with pytest.raises(UserError, match="holds no runs"):
        read_runs([tmp_path / "attempts"])


def test_runs_count_once_however_often_they_are_named(tmp_path):
    for name in ("one", "two"):
        sweep = Sweep(
            tmp_path / name, {"name": name}, [planned("a"), planned(name)]
        )
        save_sweep(sweep)
        write(sweep.workdir("a"))
        write(sweep.workdir(name))
    one, two = tmp_path / "one", tmp_path / "two"
    table = read_runs([one, one, two, one / "runs" / ".." / "."])
    assert [point.id for point in table.points] == ["a", "one", "two"]
    assert [why for _, why in table.excluded] == [
        f"the same run as in {one / 'runs' / 'a'}"
    ]


def test_what_a_run_is_besides_its_size_is_kept(tmp_path):
    fields = {"model.width": 64, "encoder.depth": 1, "optim.b2": 0.9}
    sweep = Sweep(
        tmp_path, {"name": "s"}, [replace(planned("a"), overrides=fields)]
    )
    save_sweep(sweep)
    write(sweep.workdir("a"))
    source = read_runs([tmp_path]).sources["a"]
    assert source.overrides == {"model.width": 64, "encoder.depth": 1}
    assert (source.step, source.examples, source.overhead) == (200, 6400, 2.0)
    assert source.metrics[METRIC] == 0.8


def test_the_metric_is_the_one_that_sweeps_were_planned_for(tmp_path):
    for name, metric in (("one", "eval/fid"), ("two", None)):
        facts = {"name": name, "metric": metric}
        save_sweep(Sweep(tmp_path / name, facts, [planned("a")]))
    one, two = tmp_path / "one", tmp_path / "two"
    assert own_metric([one]) == "eval/fid"
    assert own_metric([two]) == own_metric([tmp_path]) == METRIC
    with pytest.raises(UserError, match="choose one with --metric"):
        own_metric([one, two])
