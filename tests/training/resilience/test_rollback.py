"""Bad losses: gone back from, batches skipped, bounded, resumed exactly."""

from __future__ import annotations

import json
import math
import os
import signal
from itertools import islice

import jax
import numpy as np
import pytest

from i2i_prior.data.pipeline import Pipeline
from i2i_prior.data.sources.registry import open_source
from i2i_prior.parallel.mesh import batch_sharding
from i2i_prior.training.resilience.rollback import (
    LossSpike,
    Rollbacks,
    SpikeDetector,
)
from i2i_prior.training.setup import data_options, to_device
from i2i_prior.training.telemetry.metric_writer import read_metrics


def checked(
    watch: SpikeDetector, step: int, loss: float, norm: float = 1.0
) -> str:
    """Message of the spike that a loss is, "" for none."""
    try:
        watch.check(step, {"loss": loss, "grad_norm": norm})
    except LossSpike as bad:
        return f"{bad.step}: {bad}"
    return ""


def test_what_is_a_bad_loss():
    watch = SpikeDetector(10.0, [2.0, 1.0, 1.2])
    assert checked(watch, 21, 11.9) == ""
    said = checked(watch, 21, 12.1)
    assert said == (
        "21: the loss is 12.1, more than train.loss_spike 10 times the usual "
        "1.2, at step 21"
    )
    assert checked(watch, 22, math.nan).endswith("is not finite at step 22")
    assert "not finite" in checked(watch, 22, 1.0, math.inf)
    for _ in range(100):
        watch.add(0.1)
    assert checked(watch, 23, 1.2)
    assert not checked(SpikeDetector(0.0, [1.0]), 2, 1e30)
    assert not checked(SpikeDetector(10.0), 1, 1e30)


class Numbers:
    """Pipeline with the numbers of batches as batches."""

    def batches_from(self, step):
        while True:
            yield step
            step += 1


def data_steps(workdir, step: int, count: int) -> list[int]:
    rollbacks = Rollbacks(workdir)
    batches = rollbacks.batches(Numbers(), step)
    found = list(islice(batches, count))
    batches.close()
    assert found == [rollbacks.data_step(step + k) for k in range(count)]
    return found


def test_no_batch_comes_again_after_a_rollback(tmp_path):
    assert data_steps(tmp_path, 3, 3) == [3, 4, 5]
    rollbacks = Rollbacks(tmp_path)
    # Update 16 learnt from batch 15: 10 to 15 are left out.
    assert rollbacks.add(10, LossSpike(16, "is not finite")) == 6
    assert data_steps(tmp_path, 8, 4) == [8, 9, 16, 17]
    # Updates 11 to 13 learnt from 16 to 18; the run goes further back.
    assert rollbacks.add(5, LossSpike(13, "is not finite")) == 14
    assert data_steps(tmp_path, 3, 9) == [3, 4, *range(19, 26)]
    assert rollbacks.add(8, LossSpike(9, "is not finite")) == 1
    assert data_steps(tmp_path, 3, 7) == [3, 4, 19, 20, 21, 23, 24]
    # As a run reads it that begins again from nothing.
    assert data_steps(tmp_path, 0, 6) == [0, 1, 2, 3, 4, 19]
    assert len(Rollbacks(tmp_path)) == 3


def test_other_hosts_write_nothing(tmp_path):
    silent = Rollbacks(tmp_path, write=False)
    silent.add(0, LossSpike(2, "is not finite"))
    assert (silent.data_step(0), list(tmp_path.iterdir())) == (2, [])


def test_when_it_is_the_checkpoint(tmp_path):
    rollbacks = Rollbacks(tmp_path)
    first, later = (
        LossSpike(11, "is not finite"),
        LossSpike(12, "is not finite"),
    )
    assert not rollbacks.is_checkpoint_bad(10, first)
    rollbacks.add(10, first)
    assert not rollbacks.is_checkpoint_bad(10, later)
    assert rollbacks.is_checkpoint_bad(10, first)
    rollbacks.add(8, first)  # another checkpoint 10 may be made now
    assert not rollbacks.is_checkpoint_bad(10, first)
    assert not rollbacks.is_checkpoint_bad(8, LossSpike(9, "is not finite"))


@pytest.fixture(scope="module")
def pipeline(tiny):
    config = tiny()
    return Pipeline(open_source(config.data.source), data_options(config))


def test_a_bad_batch_is_skipped_and_a_resume_after_it_is_exact(
    train, inject, pipeline, programs, meshes, restore, run_directory, tmp_path
):
    """Batch 4 makes update 5 bad; then a signal comes, and it resumes."""
    bad_image, workdir = pipeline.batch(4)["image"], tmp_path / "run"
    rolled_back = []

    def wanted(update, batch):
        bad = np.array_equal(batch["image"], bad_image)
        if bad:
            rolled_back.append(update)
        elif rolled_back and update == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return bad

    inject(wanted, float("nan"))
    ended = train("train.sample_every=6", "train.evaluate_every=6")
    assert ended.code == 75, ended.err
    assert (
        "the loss is not finite at step 5: back to step 4; batches skipped: "
        "1; rollback 1 of 3" in ended.err
    )
    assert "saved step 5" in ended.err
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert lines[5]["rollbacks"] == 1
    assert "rollbacks" not in lines[4]
    ended = train("train.sample_every=6", "train.evaluate_every=6")
    assert ended.code == 0, ended.err
    assert rolled_back == [5]

    wanted_state = jax.tree.map(
        lambda array, shape: jax.device_put(array, shape.sharding),
        restore(run_directory, 4),
        programs["fsdp"].abstract,
    )
    for number in (5, 6):
        batch = to_device(
            pipeline.batch(number), batch_sharding(meshes["fsdp"])
        )
        wanted_state, _ = programs["fsdp"].step(wanted_state, batch)
    jax.tree.map(
        np.testing.assert_array_equal,
        restore(workdir, 6),
        jax.device_get(wanted_state),
    )


def test_too_many_rollbacks_end_with_the_last_good_checkpoint(
    train, inject, restore, run_directory, tmp_path
):
    """Update 6 is bad whatever it learns from: an explosion, yet finite."""
    inject(lambda update, _: update == 6, 30.0)
    ended = train("train.max_rollbacks=1", "train.log_every=100")
    assert ended.code == 65, ended.err
    workdir = tmp_path / "run"
    assert "back to step 4; batches skipped: 2; rollback 1 of 1" in ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: the loss is ")
    assert "more than train.loss_spike 10 times the usual" in last
    assert "at step 6; rollbacks: 1; the last good checkpoint" in last
    assert f"{workdir}/checkpoints/4; lower optim.learning_rate" in last
    jax.tree.map(
        np.testing.assert_array_equal,
        restore(workdir, 4),
        restore(run_directory, 4),
    )
    (record,) = json.loads((workdir / "rollbacks.json").read_text())
    assert (record["to"], record["bad_step"], record["offset"]) == (4, 6, 2)


def test_an_exploding_learning_rate_leaves_no_checkpoint_of_it(train, tmp_path):
    ended = train("optim.learning_rate=1e3", "train.checkpoint_every=1")
    assert ended.code == 65, ended.err
    # The loss of step 1 is good, the state after it is not: found when no
    # other batch helps.
    for said in (
        "back to step 1; batches skipped: 1; rollback 1 of 3",
        "checkpoint 1 is moved to rejected/: its loss is bad with other "
        "batches too",
        "back to step 0; batches skipped: 3; rollback 2 of 3",
        "back to step 1; batches skipped: 1; rollback 3 of 3",
        "rollbacks: 3; there is no good checkpoint yet; lower",
    ):
        assert said in ended.err
    names = [path.name for path in (tmp_path / "run/rejected").iterdir()]
    assert names == ["1"]
