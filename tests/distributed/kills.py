"""Kills a run at random moments, again and again; it must not notice.

    PYTHONPATH=. python tests/distributed/kills.py --kills 50

Each kill is a SIGKILL, of one process of one or (every other time) of two,
at a random moment after the run has begun to start: before its first step,
between steps, in the middle of a save. The same command then goes on. After
every kill the newest checkpoint must be readable and no older than two save
intervals (one that is being written, and the one before), and at the end
every loss must be, bit for bit, what a run that nobody disturbed has logged.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from PIL import Image

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.config import load_config
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.training.setup import build
from i2i_prior.training.telemetry.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny_config.py"
EVERY = 20  # steps between saves
DEVICES = 2
LIMIT = 180  # seconds a run may take to end or to get anywhere


@dataclass
class Tally:
    """Counts of a campaign of kills."""

    kills: int = 0
    resumes: int = 0
    before_the_first_save: int = 0
    amid_a_save: int = 0
    lost: list[int] = field(default_factory=list)
    seconds_to_end_the_other: list[float] = field(default_factory=list)


def arguments(workdir: Path, images: Path, steps: int) -> list[str]:
    """The command of the run."""
    return [
        sys.executable,
        "-m",
        "i2i_prior.cli",
        "train",
        f"--config={TINY}:source=folder:{images}",
        f"--workdir={workdir}",
        f"--config.train.steps={steps}",
        f"--config.train.checkpoint_every={EVERY}",
        "--config.train.checkpoint_keep=2",
    ]


def start(command: list[str], processes: int) -> list[subprocess.Popen]:
    """Starts all processes of the run, with two devices in total."""
    flag = "--xla_force_host_platform_device_count"
    flags = re.sub(rf"{flag}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{flags} {flag}={DEVICES // processes}"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), os.environ.get("PYTHONPATH", "")]
        ),
    }
    more: list[list[str]] = [[]]
    if processes > 1:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        more = [
            [
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={processes}",
                f"--process-id={number}",
                "--startup-timeout=40",
                "--heartbeat-timeout=10",
            ]
            for number in range(processes)
        ]
    return [
        subprocess.Popen(
            [*command, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for options in more
    ]


def finish(command: list[str], processes: int) -> None:
    """Runs to the end."""
    running = start(command, processes)
    try:
        for process in running:
            _, err = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, err
    finally:
        kill(running)


def kill(running: list[subprocess.Popen]) -> None:
    """Ends what is left of a run."""
    for process in running:
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()


def disturb(
    command: list[str],
    workdir: Path,
    processes: int,
    rng: random.Random,
    tally: Tally,
) -> bool:
    """Starts, waits a random while, kills one; False where it had ended."""
    before = last_step(workdir)
    running = start(command, processes)
    try:
        # Mostly once it gets on, at times while it starts.
        if rng.random() < 0.8:
            due = time.monotonic() + LIMIT
            while last_step(workdir) <= before:
                if any(process.poll() is not None for process in running):
                    break
                assert time.monotonic() < due, "no progress"
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 2.5))
        else:
            time.sleep(rng.uniform(0, 3))
        victim = rng.choice(running)
        if victim.poll() is not None:
            return False
        victim.send_signal(signal.SIGKILL)
        began = time.monotonic()
        for process in running:
            process.communicate(timeout=LIMIT)
        if processes > 1:
            tally.seconds_to_end_the_other.append(time.monotonic() - began)
    finally:
        kill(running)
    tally.kills += 1
    inspect(workdir, tally)
    return True


def last_step(workdir: Path) -> int:
    """The last step that the run has logged."""
    lines = read_metrics(workdir)
    return int(lines[-1]["step"]) if lines else 0


def inspect(workdir: Path, tally: Tally) -> None:
    """The newest checkpoint is there, readable, and not too old."""
    reached = last_step(workdir)
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    # Orbax writes under another name and renames.
    tally.amid_a_save += any(not name.isdigit() for name in names)
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        latest = checkpoints.latest()
        if latest is None:
            tally.before_the_first_save += 1
            assert reached <= 2 * EVERY, (reached, "no checkpoint")
            return
        tally.lost.append(max(reached - latest, 0))
        assert reached - latest <= 2 * EVERY, (reached, latest)
        state = checkpoints.restore(abstract_state(), latest)
        assert int(state.step) == latest
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(state))
        tally.resumes += 1
    finally:
        checkpoints.close()


@functools.cache
def abstract_state() -> Any:
    """Shapes of the run's state, on one device of this process."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return build(load_config(str(TINY)), mesh).abstract


def losses(workdir: Path) -> dict[int, tuple[float, float]]:
    """Step -> loss and gradient norm, as logged."""
    return {
        int(line["step"]): (line["loss"], line["grad_norm"])
        for line in read_metrics(workdir)
        if "loss" in line
    }


def photographs(folder: Path) -> Path:
    """A few small pictures to train on."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        picture = rng.integers(0, 256, (16, 20, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def campaign(kills: int, steps: int, seed: int, place: Path) -> Tally:
    """Runs all kills and returns their counts.

    Raises:
      AssertionError: where a run noticed.
    """
    images = photographs(place / "images")
    quiet = place / "quiet"
    finish(arguments(quiet, images, steps), 1)
    wanted = losses(quiet)
    assert len(wanted) == steps
    rng, tally, number = random.Random(seed), Tally(), 0
    while tally.kills < kills:
        workdir = place / f"run{number}"
        command = arguments(workdir, images, steps)
        while tally.kills < kills:
            processes = 1 + tally.kills % 2
            if not disturb(command, workdir, processes, rng, tally):
                break
            print(f"kill {tally.kills}: step {last_step(workdir)}", flush=True)
        finish(command, 1)
        found = losses(workdir)
        assert found == wanted, {
            step: (found.get(step), wanted[step])
            for step in wanted
            if found.get(step) != wanted[step]
        }
        number += 1
    return tally


def main() -> None:
    """Parses the command line and prints the tally as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400, help="of a run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "xla"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
        tally = campaign(
            options.kills, options.steps, options.seed, Path(folder)
        )
    print(json.dumps(vars(tally)))


if __name__ == "__main__":
    main()
