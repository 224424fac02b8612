"""Evaluators: run when due, not twice, logged, and added in one place."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.training.evaluators.base import Evaluator, is_due
from i2i_prior.training.evaluators.metrics import Metrics
from i2i_prior.training.evaluators.registry import EVALUATORS
from i2i_prior.training.evaluators.sample_grid import SampleGrid
from i2i_prior.training.evaluators.validation_loss import ValidationLoss
from i2i_prior.training.telemetry.metric_writer import read_metrics


class ParameterNorm(Evaluator):
    """Example: the norm of the EMA parameters, in a file a step."""

    name = "parameter_norm"
    files = ("norms/*.json",)

    def __init__(self, context):
        super().__init__(context, context.config.train.checkpoint_every)
        self.steps = []

    def path(self, step):
        return self.context.workdir / "norms" / f"{step}.json"

    def done(self, step):
        return self.path(step).exists()

    def run(self, state, step):
        self.steps.append(step)
        self.context.check()
        squares = [jnp.sum(a**2) for a in state.ema_parameters().values()]
        norm = float(jnp.sqrt(sum(squares)))
        self.path(step).parent.mkdir(exist_ok=True)
        self.path(step).write_text(json.dumps(norm))
        return {"norm/ema": norm}, {"norm": np.zeros((4, 4, 3), np.uint8)}

    def stored(self, step):
        return {"norm/ema": json.loads(self.path(step).read_text())}


@pytest.fixture
def registered(monkeypatch):
    """Registers the example; gives the evaluators that are built of it."""
    built = []

    def build(context):
        built.append(ParameterNorm(context))
        return built[-1]

    monkeypatch.setitem(EVALUATORS, ParameterNorm.name, build)
    return built


def norms(workdir):
    lines = [line for line in read_metrics(workdir) if "norm/ema" in line]
    return {line["step"]: line["norm/ema"] for line in lines}


def test_an_evaluator_is_one_class_and_one_entry(train, registered, tmp_path):
    ended = train("train.checkpoint_every=4")
    assert ended.code == 0, ended.err
    # Every four steps and after the last one.
    assert registered[0].steps == [4, 6]
    found = norms(tmp_path / "run")
    assert list(found) == [4, 6]
    assert all(norm > 1 for norm in found.values())
    spent = json.loads((tmp_path / "run" / "goodput.json").read_text())
    assert spent["seconds"]["eval"] > 0
    # As if the run had been cut after the evaluation and before its line was
    # safe: logged again from the file, and not measured again.
    metrics = tmp_path / "run" / "metrics.jsonl"
    kept = [x for x in metrics.read_text().splitlines() if "norm" not in x]
    metrics.write_text("".join(f"{line}\n" for line in kept))
    ended = train("train.checkpoint_every=4")
    assert ended.code == 0, ended.err
    assert registered[1].steps == []
    assert norms(tmp_path / "run") == {6: found[6]}


def test_all_names_are_keys():
    assert list(EVALUATORS) == [
        "validation_loss",
        "sample_grid",
        "metrics",
        "best_checkpoint",
    ]


def test_is_due():
    assert [s for s in range(8) if is_due(s, 3)] == [0, 3, 6]
    assert not any(is_due(s, 0) for s in range(8))


def test_results_of_undone_steps_are_deleted(tiny, tmp_path):
    for name in (
        "samples/4.png",
        "samples/6.png",
        "evaluations/00000006-x.json",
        "evaluations/00000006-x.png",
        "validation/6.json",
        "validation/6.npz",
        "validation/other.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    context = SimpleNamespace(config=tiny(), workdir=tmp_path)
    for evaluator in (SampleGrid, Metrics, ValidationLoss):
        made = evaluator.__new__(evaluator)
        Evaluator.__init__(made, context, 2)
        made.forget_after(4)
    left = sorted(p.name for p in tmp_path.glob("*/*"))
    assert left == ["4.png", "other.json"]
