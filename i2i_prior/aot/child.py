"""Ahead-of-time compilation in a child process, which may die of it."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from i2i_prior.aot.topologies import Topology
from i2i_prior.config import flatten
from i2i_prior.errors import UserError
from i2i_prior.io.child_process import ChildProcess
from i2i_prior.io.log_tail import tail_cause


def compile_in_child(
    config: ConfigDict,
    topology: Topology,
    low_effort: bool,
    hlo_file: str | None = None,
    announce: bool = True,
) -> dict[str, Any]:
    """Runs `compile.compile_ahead`, see there, in a child process.

    `announce` reports on stderr what is being compiled.

    Raises:
      UserError: of `compile_ahead`, or the child ended before it compiled.
    """
    with tempfile.TemporaryDirectory(prefix="i2i-prior-compile-") as folder:
        request, answer = Path(folder, "request"), Path(folder, "answer")
        wanted = {
            "config": flatten(config),
            "topology": topology.text,
            "low_effort": low_effort,
            "hlo": hlo_file and str(Path(hlo_file).absolute()),
        }
        request.write_text(json.dumps(wanted))
        errors = Path(folder, "errors")
        with errors.open("w") as stream:
            module = [sys.executable, "-m", "i2i_prior.aot.compile"]
            with ChildProcess(
                [*module, str(request), str(answer)],
                env=environment(topology),
                stdout=stream,
                stderr=stream,
            ) as child:
                text = f"compiling {config.name} for {topology.text}"
                _wait(child, text if announce else "")
            code = child.kill()
        result = json.loads(answer.read_text()) if answer.exists() else {}
        if "error" in result:
            raise UserError(result["error"])
        if code:
            reason = _failure(code, errors)
            if not result:
                raise UserError(f"{topology.text}: {reason}")
            # The facts known before the compiler ran are there.
            result["reason"] = reason
        return result


def environment(topology: Topology) -> dict[str, str]:
    """Environment variables of this process, with those of the compiler."""
    path = str(Path(__file__).resolve().parents[2])
    python_path = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        # Flags for devices of this machine do not hold for the other one.
        "XLA_FLAGS": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [path, python_path])),
        **topology.environment(),
    }


def _wait(child: ChildProcess, text: str) -> None:
    """Waits for the end, with the time it has taken on a terminal."""
    terminal = sys.stderr.isatty() and bool(text)
    if text and not terminal:
        print(f"{text} (a large model takes minutes)", file=sys.stderr)
    clock = "{desc} [{elapsed}]"
    with tqdm(
        desc=text, bar_format=clock, disable=not terminal, leave=False
    ) as bar:
        while not child.ended():
            time.sleep(0.1)
            bar.refresh()


def _failure(code: int, errors: Path) -> str:
    """Reason of a compiler that ended with an exit code (or minus a signal),
    its stderr in the file `errors`."""
    if code == -signal.SIGKILL:
        cause = " (out of this machine's memory, most likely)"
    else:
        cause = f": {text}" if (text := tail_cause(errors)) else ""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the compiler ended with {how}{cause}"
