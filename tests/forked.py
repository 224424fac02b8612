"""Commands in processes of their own that have imported everything already.

Imports are a quarter of a tiny run. Each process is the fork of one that has
made them, and has done nothing else: it has one thread and no devices.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TextIO

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["i2i_prior.cli", "i2i_prior.commands.prepare", "i2i_prior.train"]
)


class Forked:
    """A command that runs, as a `subprocess.Popen` with stderr alone."""

    def __init__(
        self,
        *arguments: str | Path,
        script: Path | None = None,
        environment: dict[str, str] | None = None,
    ):
        """Starts `i2i-prior ARGUMENTS`, or `python SCRIPT ARGUMENTS`."""
        reading, writing = os.pipe()
        self.stderr: TextIO = os.fdopen(reading)
        words = [str(script or "i2i-prior"), *map(str, arguments)]
        environment = dict(environment or os.environ)
        target = _Start(words, environment, script, DupFd(writing))
        self._process = _CONTEXT.Process(target=target)
        self._process.start()
        os.close(writing)
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("i2i-prior", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        said = self.stderr.read()
        self.wait(timeout)
        return "", said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


class _Start:
    """Runs the command in the new process, and ends it as Python ends."""

    def __init__(
        self,
        words: list[str],
        environment: dict[str, str],
        script: Path | None,
        stderr: Any,
    ):
        self.words, self.environment = words, environment
        self.script, self.stderr = script, stderr

    def __call__(self) -> None:
        os.dup2(self.stderr.detach(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ.clear()
        os.environ.update(self.environment)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may be nohup'ed
        sys.argv = self.words
        try:
            if self.script:
                runpy.run_path(str(self.script), run_name="__main__")
            else:
                from i2i_prior.cli import main

                main()
        finally:
            threading._shutdown()
            atexit._run_exitfuncs()
