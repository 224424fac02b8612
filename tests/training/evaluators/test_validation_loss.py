"""Validation losses: the same for all runs, and equal to those of training."""

from __future__ import annotations

import json
import math

import jax
import numpy as np
import pytest
from scipy import stats

from i2i_prior.diffusion.objectives import draw_times
from i2i_prior.diffusion.paths import get_path
from i2i_prior.evaluation import validation_losses
from i2i_prior.training.evaluators.validation_loss import (
    losses,
    stratified_times,
    stratum_shares,
)
from i2i_prior.training.telemetry.metric_writer import read_metrics

EXAMPLES, TIMES = 10, 4
SETTINGS = (
    "validation.every=2",
    f"validation.examples={EXAMPLES}",
    f"validation.times={TIMES}",
    "validation.batch_size=4",
)


@pytest.fixture(scope="module")
def validated(command, tiny_spec, tmp_path_factory):
    """validated("field=value", ...): a finished run with losses."""

    def run(*overrides):
        workdir = tmp_path_factory.mktemp("validated") / "run"
        ended = command(
            "train",
            "--config",
            tiny_spec,
            "--workdir",
            workdir,
            *(f"--config.{o}" for o in (*SETTINGS, *overrides)),
        )
        assert ended.code == 0, ended.err
        return workdir

    return run


@pytest.fixture(scope="module")
def workdir(validated):
    return validated()


def lines(workdir):
    return {
        int(line["step"]): {k: v for k, v in line.items() if "validation" in k}
        for line in read_metrics(workdir)
        if "validation/ema_uniform" in line
    }


def test_files_and_lines_agree(workdir):
    document = json.loads((workdir / "validation" / "6.json").read_text())
    assert document["examples"] == EXAMPLES
    assert lines(workdir)[6] == document["losses"]
    assert sorted(lines(workdir)) == [2, 4, 6]
    tables = validation_losses.read(workdir, 6)
    for kind, table in tables.items():
        assert table.mse.shape == (EXAMPLES, TIMES)
        wanted = stats.sem(table.mse.mean(1, dtype=np.float64))
        key = f"validation/{kind}_uniform"
        assert document["losses"][key] == pytest.approx(
            table.mse.mean(dtype=np.float64)
        )
        assert document["losses"][f"{key}_standard_error"] == pytest.approx(
            wanted
        )
        levels = [level[f"{kind}_mse"] for level in document["levels"]]
        assert np.mean(levels) == pytest.approx(document["losses"][key])
    # Raw and EMA weights differ, and so do their losses.
    assert not np.array_equal(tables["ema"].mse, tables["raw"].mse)
    result = json.loads((workdir / "result.json").read_text())
    assert result["outcome"] == "done"
    assert (result["step"], result["steps"], result["examples"]) == (6, 6, 48)
    assert lines(workdir)[6].items() <= result["metrics"].items()


def test_the_report_shows_them(workdir):
    page = (workdir / "report.html").read_text()
    assert "Validation loss" in page
    assert page.count('class="band"') >= 4
    document = json.loads((workdir / "validation" / "6.json").read_text())
    assert f"{document['levels'][2]['raw_mse']:.4g}" in page


def test_another_batch_size_and_seed_see_the_same_noise(workdir, validated):
    """The network stays the same, so that only draws could differ."""
    still = ("optim.learning_rate=0.0", "train.steps=2")
    first = validated(*still)
    other = validated(*still, "validation.batch_size=16", "data.flip=0.0")
    for kind in ("ema", "raw"):
        one, two = (
            validation_losses.read(run, 2)[kind].mse for run in (first, other)
        )
        np.testing.assert_allclose(one, two, rtol=1e-5)


def test_it_is_the_loss_of_training(tiny, programs, fresh, batches):
    """Noise and times given by hand, through the training loss itself."""
    program = programs["one"]
    state = fresh("one")
    parameters = {**state.params, **state.frozen}
    batch = {k: batches[0][k] for k in ("image", "view")}
    times = np.array([0.2, 0.7])
    numbers = np.arange(8, dtype=np.int32)
    found, _ = jax.jit(lambda p, b, n: losses(program.task, p, b, n, times))(
        parameters, batch, numbers
    )
    key = jax.random.key(0)
    noise = np.stack(
        [
            jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, n), 1), (8, 8, 3)
            )
            for n in range(8)
        ]
    )
    draws = {
        "t": np.full(8, 0.7, np.float32),
        "noise": noise,
        "drop": np.zeros(8, bool),
    }
    wanted, _ = jax.jit(program.task.loss)(parameters, batch, draws)
    np.testing.assert_allclose(found[:, 1], wanted, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "distribution", "shift"),
    [
        ("flow", "uniform", 1.0),
        ("flow", "logit_normal", 3.0),
        ("ddpm_linear", "logit_normal", 1.0),
    ],
)
def test_shares_are_those_of_the_draws(name, distribution, shift):
    path = get_path(name, shift)
    shares = stratum_shares(8, path, distribution, -0.5, 1.2)
    drawn = draw_times(jax.random.key(1), 40_000, path, distribution, -0.5, 1.2)
    counts, _ = np.histogram(np.asarray(drawn) - 1e-6, np.linspace(0, 1, 9))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares, counts / 40_000, atol=0.01)
    middles = stratified_times(8, path)
    np.testing.assert_allclose(middles, (np.arange(8) + 0.5) / 8, atol=1e-3)


def test_a_paired_difference_is_sharper():
    rng = np.random.default_rng(0)
    images = rng.normal(1, 0.3, 400)
    ours, theirs = images, images + 0.01 + rng.normal(0, 0.02, 400)
    mean, error = validation_losses.difference(ours, theirs)
    assert abs(mean + 0.01) < 4 * error
    alone = math.hypot(
        *(validation_losses.estimate(a)[1] for a in (ours, theirs))
    )
    assert error < alone / 10


def test_a_resumed_run_has_the_lines_of_one_that_was_not(
    command, tiny_spec, tmp_path, workdir
):
    arguments = ["train", "--config", tiny_spec, "--workdir", tmp_path / "run"]
    settings = [f"--config.{o}" for o in SETTINGS]
    rare = "--config.train.checkpoint_every=100"
    first = command(*arguments, *settings, rare, "--config.train.steps=4")
    assert first.code == 0, first.err
    # As if it had been cut between the losses of step 2 and a checkpoint.
    metrics = tmp_path / "run" / "metrics.jsonl"
    kept = [
        line
        for line in metrics.read_text().splitlines()
        if json.loads(line)["step"] != 4 or "validation" not in line
    ]
    metrics.write_text("".join(f"{line}\n" for line in kept))
    again = command(*arguments, *settings, rare)
    assert again.code == 0, again.err
    assert lines(tmp_path / "run") == lines(workdir)


def test_prepared_latents_need_prepared_images(train):
    ended = train("validation.every=1", "data.cached=true", "encoder.kind=none")
    assert ended.code == 1
    assert "set validation.source to arrayrecord:FOLDER" in ended.err
