"""Training loop: exact resume, exit codes, divergence, frozen encoders."""

from __future__ import annotations

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

import i2i_prior.train
from i2i_prior.checkpoint.run_dir import read_json
from i2i_prior.inference.generator import Generator
from i2i_prior.io.child_process import STOP_SIGNALS
from i2i_prior.parallel.mesh import batch_sharding
from i2i_prior.training import loop_state
from i2i_prior.training.resilience.preemption import Preemption
from i2i_prior.training.setup import to_device
from i2i_prior.training.telemetry.metric_buffer import MetricBuffer
from i2i_prior.training.telemetry.metric_writer import read_metrics
from tests.conftest import TINY
from tests.forked import Forked


def losses(workdir) -> dict[int, tuple[float, float]]:
    """step -> (loss, gradient norm); every step once."""
    lines = [line for line in read_metrics(workdir) if "loss" in line]
    steps = [line["step"] for line in lines]
    assert len(set(steps)) == len(steps), "a step was logged twice"
    assert steps == sorted(steps)
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines}


def test_step_k_sees_batch_k(run_directory, programs, fresh, batches, meshes):
    state, sharding = fresh("fsdp"), batch_sharding(meshes["fsdp"])
    for step, pair in losses(run_directory).items():
        batch = to_device(batches[step - 1], sharding)
        state, metrics = programs["fsdp"].step(state, batch)
        assert (metrics["loss"], metrics["grad_norm"]) == pair


# Dies while checkpoint 4 is being written in the background.
KILLED = """
import os, signal, sys
from i2i_prior import cli, train

run_due = train.run_due
def die(evaluators, state, step, buffer):
    evaluated = run_due(evaluators, state, step, buffer)
    if step == 2:
        evaluators[0].context.checkpoints.wait()
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluated
train.run_due = die
cli.main(sys.argv[1:])
"""


def test_resume_after_sigkill_is_bit_exact(
    train, restore, run_directory, tiny_spec, tmp_path
):
    workdir = tmp_path / "run"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = "train", "--config", tiny_spec, "--workdir", workdir
    process = Forked(*arguments, script=script)
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, err
    assert not (workdir / "checkpoints" / "6").exists()
    # As where the kill came in the middle of a line.
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')

    ended = train()
    assert ended.code == 0, ended.err
    assert "resumed, step " in ended.err
    wanted, found = restore(run_directory, 6), restore(workdir, 6)
    assert len(jax.tree.leaves(wanted)) > 100
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert losses(workdir) == losses(run_directory)
    assert list(losses(workdir)) == [1, 2, 3, 4, 5, 6]
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert names == {"2", "4", "6"}


def test_resume_on_another_mesh_goes_on_alike(train, run_directory, tmp_path):
    shutil.copytree(run_directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    ended = train("mesh.fsdp=2", "mesh.tensor=2")
    assert ended.code == 0, ended.err
    assert "fsdp 2 x context 1 x tensor 2; resumed, step 4" in ended.err
    found, wanted = losses(tmp_path / "run"), losses(run_directory)
    assert list(found) == list(wanted)
    for step, pair in wanted.items():
        assert found[step] == pytest.approx(pair, rel=1e-5)


def test_sigterm_saves_and_asks_to_be_queued_again(train, tiny_spec, tmp_path):
    workdir = tmp_path / "run"
    process = Forked(
        "train",
        "--config",
        tiny_spec,
        "--workdir",
        workdir,
        "--config.train.steps=1000000",
        "--config.train.checkpoint_every=1000000",
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("tiny 3/"):
            process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, lines
    last = lines[-1]
    assert last.startswith("SIGTERM: saved step ")
    assert last.endswith("run the same command to resume\n")
    (saved,) = (int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert last.startswith(f"SIGTERM: saved step {saved} in {workdir}")
    ended = train(f"train.steps={saved + 2}")
    assert ended.code == 0, ended.err
    assert f"resumed, step {saved}" in ended.err
    assert list(losses(workdir))[-3:] == [saved, saved + 1, saved + 2]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_preemption_notes_the_first_signal(number):
    def handler(*_):
        raise AssertionError("this is for others")

    before = signal.signal(number, handler)
    try:
        with Preemption() as preemption:
            assert preemption.requested == ""
            os.kill(os.getpid(), number)
            assert preemption.requested == signal.Signals(number).name
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_a_second_ctrl_c_aborts():
    with Preemption():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("place", "saved"),
    # After the evaluation of step 1; after the dispatch of step 3; when the
    # line of step 2 is written, two steps later.
    [("run_due", 1), ("_dispatch", 3), ("_log", 4)],
)
def test_a_signal_at_any_line_saves_what_it_says(
    train, monkeypatch, tmp_path, place, saved
):
    owner = MetricBuffer if place == "_log" else i2i_prior.train
    function = getattr(owner, place)
    calls = []

    def signalled(*arguments):
        result = function(*arguments)
        calls.append(place)
        if len(calls) == (3 if place == "_dispatch" else 2):
            os.kill(os.getpid(), signal.SIGUSR1)
        return result

    monkeypatch.setattr(owner, place, signalled)
    ended = train("train.checkpoint_every=100")
    assert ended.code == 75
    assert f"SIGUSR1: saved step {saved} in " in ended.err
    names = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert names == [str(saved)]
    assert list(losses(tmp_path / "run")) == list(range(1, saved + 1))


def test_a_signal_ends_an_evaluation_and_its_rerun_makes_up_for_it(
    train, monkeypatch, tmp_path
):
    options = ("train.evaluate_every=4", "train.checkpoint_every=100")
    options += ("evaluate.num_samples=8", "evaluate.batch_size=4")
    generate = Generator.images
    calls = []

    def signalled(*arguments):
        calls.append(0)
        if len(calls) == 3:  # the first batch of the evaluation of step 4
            os.kill(os.getpid(), signal.SIGTERM)
        return generate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "images", signalled)
        ended = train(*options)
    assert ended.code == 75
    assert "SIGTERM: saved step 4 in " in ended.err
    assert len(calls) == 3
    scores = tmp_path / "run" / "evaluations"
    assert len(list(scores.glob("00000004-*.json"))) == 0
    ended = train(*options)
    assert ended.code == 0, ended.err
    assert len(list(scores.glob("00000004-*.json"))) == 1
    steps = [line["step"] for line in read_metrics(tmp_path / "run")]
    assert steps == [0, 1, 2, 3, 4, 4, 5, 6, 6]


def test_checkpoints_by_the_clock(train, monkeypatch, tmp_path):
    """Half a minute apart, where every step takes eleven seconds."""
    dispatch, passed = i2i_prior.train._dispatch, []
    monkeypatch.setattr(loop_state, "monotonic", lambda: sum(passed))

    def slow(*arguments):
        passed.append(11.0)
        return dispatch(*arguments)

    monkeypatch.setattr(i2i_prior.train, "_dispatch", slow)
    ended = train(
        "train.steps=8",
        "train.checkpoint_every=100",
        "train.checkpoint_minutes=0.5",
    )
    assert ended.code == 0, ended.err
    names = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    # After 33 seconds it is due: the step that follows is saved.
    assert sorted(names) == ["4", "8"]


def test_a_trace_of_some_steps_is_summed_up(
    command, tiny_spec, run_directory, tmp_path
):
    shutil.copytree(run_directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    ended = command(
        "train",
        "--config",
        tiny_spec,
        "--workdir",
        tmp_path / "run",
        "--profile-steps",
        "6:9",
    )
    assert ended.code == 0, ended.err
    text = (tmp_path / "run" / "profile" / "summary.txt").read_text()
    assert text in ended.err
    top, _, below = text.partition("\n\n")
    assert top.split()[:3] == ["share", "time/device", "runs"]
    assert len(top.splitlines()) == 16
    rows = [line.split() for line in below.splitlines()[1:]]
    kinds = {row[-1]: float(row[0].rstrip("%")) for row in rows}
    assert {"matmul", "collective", "elementwise", "host"} <= set(kinds)
    assert sum(kinds.values()) == pytest.approx(100, abs=0.5)
    assert list((tmp_path / "run" / "profile" / "6").rglob("*.trace.json.gz"))
    assert "Top operations" in (tmp_path / "run" / "report.html").read_text()
    # The same losses as without.
    assert losses(tmp_path / "run") == losses(run_directory)


@pytest.mark.parametrize("text", ["10", "0:3", "5:4", "a:b", ":", "-1:3"])
def test_profile_steps_that_make_no_sense(command, tiny_spec, tmp_path, text):
    arguments = "--config", tiny_spec, "--workdir", tmp_path / "run"
    ended = command("train", *arguments, f"--profile-steps={text}")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "takes FIRST:LAST, as 10:15" in ended.err
    assert not (tmp_path / "run").exists()


def test_other_images_end_a_resume(command, photos, run_directory, tmp_path):
    """A run whose images have changed would learn from others."""
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "00.png").unlink()
    shutil.copytree(run_directory, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    spec = f"folder:{tmp_path}/photos"
    config["config"] |= {"data.source": spec, "data.held_out": spec}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    ended = command(
        "train",
        *("--config", f"{TINY}:source={spec}"),
        *("--workdir", tmp_path / "run", "--config.train.steps=8"),
    )
    assert ended.code == 1
    assert "have changed since" in ended.err
    assert not (tmp_path / "run" / "checkpoints" / "8").exists()


def test_profile_steps_of_another_time(
    command, tiny_spec, run_directory, tmp_path
):
    """Steps after the end of a run are a mistake; steps that were done are
    not, since the run may have been stopped and started again."""
    arguments = "--config", tiny_spec, "--workdir", tmp_path / "run"
    ended = command("train", *arguments, "--profile-steps=7:8")
    assert ended.code == 1
    assert "7:8 begins after the run's last step, 6" in ended.err
    shutil.copytree(run_directory, tmp_path / "run")
    ended = command("train", *arguments, "--profile-steps=2:3")
    assert ended.code == 0, ended.err
    assert "2:3: none of them was taken this time" in ended.err


def test_divergence_keeps_and_names_the_last_good_checkpoint(
    train, monkeypatch, inject, restore, run_directory, tmp_path
):
    with monkeypatch.context() as patch:
        inject(lambda update, _: update == 4, float("nan"), patch)
        # Seen because a checkpoint is due: nothing is logged then.
        ended = train("train.log_every=100", "train.max_rollbacks=0")
    assert ended.code == 65
    workdir = tmp_path / "run"
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: the loss is not finite at step 4; ")
    assert f"the last good checkpoint is {workdir}/checkpoints/2;" in last
    assert "lower optim.learning_rate" in last
    assert read_json(workdir / "result.json")["outcome"] == "diverged"
    jax.tree.map(
        np.testing.assert_array_equal,
        restore(workdir, 2),
        restore(run_directory, 2),
    )
    ended = train()
    assert ended.code == 0, ended.err
    assert "resumed, step 2" in ended.err
    jax.tree.map(
        np.testing.assert_array_equal,
        restore(workdir, 6),
        restore(run_directory, 6),
    )
    assert read_json(workdir / "result.json")["outcome"] == "done"


def test_divergence_before_any_checkpoint(train, monkeypatch, inject, tmp_path):
    with monkeypatch.context() as patch:
        inject(lambda update, _: update == 2, float("inf"), patch)
        ended = train(
            "train.checkpoint_every=100",
            "train.evaluate_every=100",
            "train.max_rollbacks=0",
        )
    assert ended.code == 65
    assert (
        "not finite at step 2; rollbacks: 0; there is no good checkpoint"
        in ended.err
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert lines[-1]["loss"] is None
    assert [line["step"] for line in lines] == [0, 1, 2]
    # From the start again, without a trace of the first attempt.
    ended = train("train.steps=1", "train.evaluate_every=100")
    assert ended.code == 0, ended.err
    steps = [line["step"] for line in read_metrics(tmp_path / "run")]
    assert steps == [0, 1, 1]  # scores of the first attempt, loss, scores


def test_a_done_run_ends_at_once_and_stays_as_it_is(
    train, run_directory, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(run_directory, workdir)
    ended = train(
        "train.sample_every=6",
        "train.evaluate_every=6",
        "train.tensorboard=true",
        "validation.every=6",
        "validation.examples=10",
        "validation.times=4",
        "validation.batch_size=4",
    )
    assert ended.code == 0, ended.err
    assert "resumed, step 6" in ended.err
    assert ended.err.splitlines()[-1].startswith("done, step 6; ")
    assert "loss" not in ended.err
    for name in ("metrics.jsonl", "config.json", "samples/6.png"):
        wanted = (run_directory / name).read_bytes()
        assert (workdir / name).read_bytes() == wanted, name
    ended = train("train.steps=4")
    assert ended.code == 0, ended.err
    assert (workdir / "checkpoints" / "6").is_dir()


def test_what_a_run_leaves(run_directory, tiny):
    facts = json.loads((run_directory / "metadata.json").read_text())
    assert facts["name"] == "tiny"
    assert facts["mesh"] == {"replica": 1, "fsdp": 4, "context": 1, "tensor": 1}
    assert facts["parameters"] == facts["trained_parameters"] > 50_000
    assert facts["data_examples"] == 24
    for name in ("config.json", "report.html", "samples/6.png"):
        assert (run_directory / name).is_file(), name
    assert any(run_directory.glob("events.out.tfevents.*"))
    (score,) = (run_directory / "evaluations").glob("00000006-*.json")
    assert json.loads(score.read_text())["num_samples"] == 4
    (before,) = (run_directory / "evaluations").glob("00000000-*.json")
    assert json.loads(before.read_text())["step"] == 0
    lines = read_metrics(run_directory)
    assert lines[-1]["step"] == 6
    steps = [line for line in lines if "loss" in line]
    assert all({"mse", "grad_norm", "learning_rate"} <= set(x) for x in steps)
    # The first step compiles: its rate would say nothing.
    assert "examples_per_second" not in steps[0]
    rates = {"examples_per_second", "goodput", "data_wait"}
    assert all(rates <= set(line) for line in steps[1:])
    spent = json.loads((run_directory / "goodput.json").read_text())["seconds"]
    kinds = {"step", "start", "compile", "checkpoint", "eval", "data_wait"}
    assert set(spent) == kinds
    rates = [line["learning_rate"] for line in steps]
    assert rates == pytest.approx([5e-3, 7.5e-3] + [1e-2] * 4)


@pytest.fixture(scope="module")
def encoder_file(command, run_directory, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "encoder.safetensors"
    arguments = "--workdir", run_directory, "--part", "encoder", "--out", out
    ended = command("export", *arguments)
    assert ended.code == 0, ended.err
    return out


def test_a_frozen_encoder_is_the_one_of_the_file(
    train, run_directory, encoder_file, photos, tmp_path
):
    from safetensors.numpy import load_file

    from i2i_prior import Prior

    ended = train(
        "encoder.kind=frozen",
        f"encoder.weights={encoder_file}",
        "train.steps=3",
    )
    assert ended.code == 0, ended.err
    joint, frozen = Prior.load(run_directory), Prior.load(tmp_path / "run")
    stored = load_file(encoder_file)
    assert len(stored) > 10
    for name, array in stored.items():
        np.testing.assert_array_equal(frozen.parameters[name], array)
    # The same weights and the same pixels, so the same embeddings.
    images = sorted(photos.iterdir())[:3]
    np.testing.assert_allclose(
        frozen.embed(images), joint.embed(images), 1e-5, 1e-6
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encoder.heads=4", "has encoder.heads=2, not 4"),
        ("encoder.pixels=family", "has encoder.pixels=symmetric, not family"),
        ("encoder.depth=2", "holds no encoder of this shape"),
    ],
)
def test_an_encoder_of_another_kind(
    train, encoder_file, tmp_path, override, said
):
    frozen = "encoder.kind=frozen", f"encoder.weights={encoder_file}"
    ended = train(*frozen, override)
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
