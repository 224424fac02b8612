"""Two and four processes over loopback: the same run as one process."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

from i2i_prior.evaluation import validation_losses
from i2i_prior.training.telemetry.metric_writer import read_metrics

LOOK = (
    "train.sample_every=6",
    "train.evaluate_every=6",
    "validation.every=6",
    "validation.examples=10",
    "validation.times=4",
    "validation.batch_size=4",
)


# Unconditional: what is shared out among processes is what counts here.
SMALL = "encoder.kind=none", "conditioner.tokens_from=none"


def losses(workdir) -> dict[int, float]:
    """Returns step -> loss; checks that no step was written twice."""
    lines = [line for line in read_metrics(workdir) if "loss" in line]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    return {line["step"]: line["loss"] for line in lines}


def tree(workdir) -> set[str]:
    """Names of the files that a run wrote, without those of Orbax."""
    return {
        str(path.relative_to(workdir))
        for path in workdir.rglob("*")
        if path.is_file() and "checkpoints" not in path.parts
    }


@pytest.fixture(scope="module")
def two(run, tmp_path_factory):
    """The whole run of conftest's `run_directory`, on two processes."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    best = "evaluate.best_metric=fidelity_top1"
    return workdir, run(workdir, *LOOK, best, processes=2)


def test_two_processes_train_as_one(two, run_directory):
    workdir, processes = two
    wanted = losses(run_directory)
    assert list(wanted) == [1, 2, 3, 4, 5, 6]
    assert losses(workdir) == pytest.approx(wanted, rel=1e-5)
    facts = json.loads((workdir / "metadata.json").read_text())
    assert (facts["hosts"], facts["devices"]) == (2, 2)
    assert "mesh replica 1 x fsdp 2 x context 1" in processes[0].err


def test_only_the_first_process_writes_and_speaks(two, run_directory):
    workdir, processes = two
    written = {name for name in tree(run_directory) if "events" not in name}
    assert tree(workdir) == written | {"best.json"}
    assert "done, step 6" in processes[0].err
    spoken = [
        line
        for line in processes[1].lines
        if line.strip() and "Gloo" not in line and "frechet" not in line
    ]
    assert all("UserWarning" in line for line in spoken), spoken


def test_pictures_and_scores_are_those_of_one_process(two, run_directory):
    def grid(workdir):
        image = Image.open(workdir / "samples" / "6.png")
        return np.asarray(image).astype(int)

    def scores(workdir):
        (file,) = (workdir / "evaluations").glob("00000006-*.json")
        return json.loads(file.read_text())["metrics"]

    found, wanted = grid(two[0]), grid(run_directory)
    assert np.abs(found - wanted).max() <= 1
    assert len(np.unique(wanted)) > 10
    assert scores(two[0]) == pytest.approx(scores(run_directory), rel=1e-2)


def test_validation_losses_are_those_of_one_process(two, run_directory):
    found, wanted = (
        validation_losses.read(run, 6) for run in (two[0], run_directory)
    )
    for kind in validation_losses.KINDS:
        assert found[kind].mse.shape == (10, 4)
        np.testing.assert_allclose(found[kind].mse, wanted[kind].mse, 1e-3)


def test_a_checkpoint_of_two_processes_is_scored_by_one(two, command):
    few = "--config.evaluate.num_samples=6", "--config.evaluate.batch_size=6"
    ended = command("evaluate", "--workdir", two[0], "--step", 4, *few)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("step 4, ")


def test_four_processes_save_what_one_and_two_restore(
    run, command, tiny_spec, tmp_path
):
    """Context shards, then tensor shards lie on different processes.

    So several processes need the same images: two of the four each row, and
    both of the two all rows.
    """

    def alone(name):
        ended = command(
            *("train", f"--config={tiny_spec}"),
            f"--workdir={tmp_path / name}",
            *(f"--config.{text}" for text in SMALL),
        )
        assert ended.code == 0, ended.err
        return ended.err

    alone("one")
    wanted = losses(tmp_path / "one")
    mesh = ("mesh.fsdp=2", "mesh.context=2")
    run(tmp_path / "four", *SMALL, *mesh, "train.steps=4", processes=4)
    found = losses(tmp_path / "four")
    assert found == pytest.approx({i: wanted[i] for i in range(1, 5)}, rel=1e-5)

    shutil.copytree(tmp_path / "four", tmp_path / "two")
    assert "resumed, step 4" in alone("four")
    assert losses(tmp_path / "four") == pytest.approx(wanted, rel=1e-5)

    processes = run(tmp_path / "two", *SMALL, "mesh.tensor=2", processes=2)
    assert "tensor 2; resumed, step 4" in processes[0].err
    assert losses(tmp_path / "two") == pytest.approx(wanted, rel=1e-5)


# Kills its own process after step 3, of which nothing is saved.
DIES = """
import os, signal, sys
from i2i_prior import cli, train

run_due = train.run_due
def die(evaluators, state, step, buffer):
    if step == 3 and "--process-id=1" in sys.argv:
        evaluators[0].context.checkpoints.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    return run_due(evaluators, state, step, buffer)
train.run_due = die
cli.main(sys.argv[1:])
"""


def test_a_killed_process_ends_the_other_and_the_rerun_is_exact(
    two, launch, run, tmp_path
):
    workdir, script = tmp_path / "run", tmp_path / "dies.py"
    script.write_text(DIES)
    first, second = launch(workdir, script=script)
    assert second.wait() == -signal.SIGKILL
    died = time.monotonic()
    assert first.wait(30) == 75, first.err
    assert time.monotonic() - died < 10
    said = f"error: process 1 on {socket.gethostname()} is gone, so this run "
    assert said in first.err
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["2"]
    processes = run(workdir)
    assert "resumed, step 2" in processes[0].err
    assert losses(workdir) == losses(two[0])
