"""Runs of several processes on this machine, over loopback."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forked import Forked

LIMIT = 240.0  # seconds; a process that hangs fails its test, and is killed


@dataclass
class Process:
    """Process of a run, with its lines of stderr."""

    popen: Forked
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(iter(self.popen.stderr.readline, ""))

    def wait(self, seconds: float = LIMIT) -> int:
        """Waits for the end; returns the exit code."""
        code = self.popen.wait(seconds)
        self._reader.join(10)
        return code

    def wait_for(self, text: str, seconds: float = LIMIT) -> None:
        """Returns when a line begins with `text`."""
        due = time.monotonic() + seconds
        while not any(line.startswith(text) for line in list(self.lines)):
            assert self.popen.poll() is None, self.err
            assert time.monotonic() < due, self.err
            time.sleep(0.01)

    @property
    def err(self) -> str:
        return "".join(self.lines)


def _environment(devices: int) -> dict[str, str]:
    # The flags and the compilation cache of tests/conftest.py, but not its
    # number of devices.
    flags = re.sub(
        r"(--xla_force_host_platform_device_count)=\d+",
        rf"\1={devices}",
        os.environ["XLA_FLAGS"],
    )
    return {**os.environ, "XLA_FLAGS": flags}


@pytest.fixture(scope="module")
def launch(tiny_spec) -> Iterator[Callable[..., list[Process]]]:
    """Starts launch(workdir, "train.steps=3", processes=2, devices=1).

    `missing` are not started; `script` runs instead of the command.
    """
    started: list[Process] = []

    def start(
        workdir: Path,
        *overrides: str,
        processes: int = 2,
        devices: int = 1,
        missing: tuple[int, ...] = (),
        script: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> list[Process]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        new = []
        for number in range(processes):
            if number in missing:
                continue
            arguments = [
                "train",
                f"--config={tiny_spec}",
                f"--workdir={workdir}",
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={processes}",
                f"--process-id={number}",
                *options,
                *(f"--config.{override}" for override in overrides),
            ]
            popen = Forked(
                *arguments, script=script, environment=_environment(devices)
            )
            new.append(Process(popen))
        started.extend(new)
        return new

    yield start
    for process in started:
        with contextlib.suppress(OSError):
            process.popen.kill()
        process.popen.wait()


@pytest.fixture(scope="module")
def run(launch) -> Callable[..., list[Process]]:
    """Launches processes and waits until all have ended with 0."""

    def all_done(*arguments, **options):
        processes = launch(*arguments, **options)
        codes = [process.wait() for process in processes]
        assert codes == [0] * len(codes), "\n".join(p.err for p in processes)
        return processes

    return all_done
