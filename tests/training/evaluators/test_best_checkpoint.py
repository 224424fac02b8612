"""Best checkpoint: kept besides the newest, recorded, and found by name."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest

import i2i_prior.training.evaluators.metrics
from i2i_prior.data.pipeline import Pipeline
from i2i_prior.errors import UserError
from i2i_prior.evaluation.metrics import lower_is_better
from i2i_prior.training.evaluators.best_checkpoint import BestCheckpoint
from i2i_prior.training.evaluators.metrics import Metrics


class Saved:
    """Stands for `Checkpoints`: remembers what is protected."""

    def __init__(self):
        self.protected, self.waits = "nothing said", 0

    def protect(self, step):
        self.protected = step

    def wait(self):
        self.waits += 1


def result(step, value, metric="top1", **more):
    return {"step": step, "metrics": {metric: value, "other": 1.0}, **more}


@pytest.fixture
def new_best(tiny, tmp_path):
    """new_best(checkpoints, metric): the evaluator of a run that begins."""

    def make(checkpoints, metric="top1"):
        config = tiny(
            "train.evaluate_every=2", f"evaluate.best_metric={metric}"
        )
        return BestCheckpoint(
            SimpleNamespace(
                config=config, workdir=tmp_path, checkpoints=checkpoints
            )
        )

    return make


@pytest.fixture
def considered():
    """considered(best, (step, value), ...) -> steps saved."""

    def run(best, *pairs, metric="top1", **more):
        steps = []
        for step, value in pairs:
            if best.due(step):
                found = result(step, value, metric, **more)
                best.consider(found, lambda step=step: steps.append(step))
        return steps

    return run


@pytest.mark.parametrize(
    ("metric", "saved"), [("top1", [2, 6]), ("FD-thumb8hog", [2, 4])]
)
def test_greater_or_smaller_is_better(
    tmp_path, new_best, considered, metric, saved
):
    checkpoints = Saved()
    best = new_best(checkpoints, metric)
    pairs = (0, 9.0), (2, 0.5), (4, 0.2), (6, 0.7), (8, float("nan"))
    assert considered(best, *pairs, metric=metric) == saved
    record = json.loads((tmp_path / "best.json").read_text())
    assert (record["step"], record["metric"]) == (saved[-1], metric)
    assert checkpoints.protected == saved[-1]
    assert checkpoints.waits == 2


def test_a_resumed_run_goes_on_from_the_best(tmp_path, new_best, considered):
    considered(new_best(Saved()), (2, 0.5))
    checkpoints = Saved()
    best = new_best(checkpoints)
    assert checkpoints.protected == 2
    assert considered(best, (2, 0.5), (4, 0.4), (6, 0.6)) == [6]


def test_other_samples_do_not_compare(tmp_path, new_best, considered):
    best = new_best(Saved())
    considered(best, (2, 0.5), num_samples=8)
    assert considered(best, (4, 0.1), num_samples=16) == [4]
    assert considered(best, (6, 0.05), num_samples=16) == []


def test_a_run_that_went_back_forgets(tmp_path, new_best, considered):
    checkpoints = Saved()
    best = new_best(checkpoints)
    considered(best, (4, 0.5))
    best.forget_after(4)
    assert checkpoints.protected == 4
    best.forget_after(2)
    assert checkpoints.protected is None
    assert not (tmp_path / "best.json").exists()
    assert considered(best, (4, 0.1)) == [4]


def test_mistakes(tmp_path, new_best, considered):
    with pytest.raises(UserError, match=r"top5 is not evaluated.*top1, other"):
        considered(new_best(Saved(), "top5"), (0, 1.0))
    with pytest.raises(UserError, match="greater or a smaller other"):
        lower_is_better("other")
    assert considered(new_best(Saved(), ""), (2, 1.0)) == []
    assert not list(tmp_path.iterdir())


@pytest.fixture
def watched(monkeypatch):
    """Evaluations find what is said here; later batches wait for the first."""
    values = {0: 0.0, 2: 0.5, 4: 0.9, 6: 0.1}
    begun, during = [], {}
    opened, made = threading.Event(), threading.Event()
    make, batches_from = Pipeline.batch, Pipeline.batches_from
    evaluate = Metrics.run

    def held(maker, step):
        if step > 2:  # not wanted before the evaluation of step 2
            opened.wait(20)
            made.set()
        return make(maker, step)

    def counted(pipeline, step):
        begun.append(step)
        return batches_from(pipeline, step)

    def waiting(evaluator, state, step):
        if step == 2:
            opened.set()
            during[step] = made.wait(20)
        return evaluate(evaluator, state, step)

    def described(config, step, found):
        return result(step, values[step])

    monkeypatch.setattr(Pipeline, "batch", held)
    monkeypatch.setattr(Pipeline, "batches_from", counted)
    monkeypatch.setattr(Metrics, "run", waiting)
    monkeypatch.setattr(
        i2i_prior.training.evaluators.metrics, "with_sampling", described
    )
    return begun, during


def test_a_run_keeps_its_best_checkpoint_and_its_pipeline(
    train, command, watched, tmp_path
):
    ended = train(
        "train.evaluate_every=2",
        "train.checkpoint_keep=1",
        "evaluate.best_metric=top1",
        "evaluate.metrics=match",
    )
    assert ended.code == 0, ended.err
    run = tmp_path / "run"
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["4", "6"]  # 2 was the best until 4 was
    assert json.loads((run / "best.json").read_text())["step"] == 4
    out = tmp_path / "prior.safetensors"
    ended = command("export", "--workdir", run, "--step", "best", "--out", out)
    assert ended.code == 0, ended.err
    begun, during = watched
    assert begun == [0]  # one stream of batches, never closed and begun again
    assert during[2]  # it went on while step 2 was evaluated


def test_a_step_is_a_number_or_best(command, tmp_path):
    out = "--out", tmp_path / "prior.safetensors"
    ended = command("export", "--workdir", "r", "--step", "bset", *out)
    assert ended.code == 2
    assert "bset" in ended.err


def test_there_may_be_no_best(command, run_directory, tmp_path):
    ended = command(
        *("export", "--workdir", run_directory, "--step", "best"),
        *("--out", tmp_path / "prior.safetensors"),
    )
    assert ended.code == 1
    assert "has no best checkpoint; train it with" in ended.err
