"""TODO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from i2i_prior.aot.topologies import Topology
from i2i_prior.config import flatten
from i2i_prior.errors import UserError


def compile_in_child(
    config: ConfigDict,
    topology: Topology,
    low_effort: bool,
    hlo_file: str | None = None,
    announce: bool = True,
) -> dict[str, Any]:
    """See `compile.compile_ahead`.

    Args:
      config, topology, low_effort, hlo_file: as there.
      announce: say on stderr what is waited for.

    Raises:
      UserError: as there, or where the child ended before it compiled.
    """
    with tempfile.TemporaryDirectory(prefix="i2i-prior-compile-") as folder:
        request, answer = Path(folder, "request"), Path(folder, "answer")
        request.write_text(
            json.dumps(
                {
                    "config": flatten(config),
                    "topology": topology.text,
                    "low_effort": low_effort,
                    "hlo": hlo_file and str(Path(hlo_file).absolute()),
                }
            )
        )
        errors = Path(folder, "errors")
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "i2i_prior.aot.compile",
                    request,
                    answer,
                ],
                env=environment(topology),
                stdout=stream,
                stderr=stream,
            )
            try:
                text = f"compiling {config.name} for {topology.text}"
                _wait(process, text if announce else "")
            finally:
                process.kill()
                process.wait()
        result = json.loads(answer.read_text()) if answer.exists() else {}
        if "error" in result:
            raise UserError(result["error"])
        if process.returncode:
            reason = _died(process.returncode, errors.read_text())
            if not result:
                raise UserError(f"{topology.text}: {reason}")
            # All that was known before the compiler ran is there.
            result["reason"] = reason
        return result


def environment(topology: Topology) -> dict[str, str]:
    """This process' variables with what the compiler needs."""
    wanted = topology.environment()
    path = str(Path(__file__).resolve().parents[2])
    python_path = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        # Flags for devices of this machine mean nothing on that one.
        "XLA_FLAGS": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [path, python_path])),
        **wanted,
    }


def _wait(process: subprocess.Popen, text: str) -> None:
    """Until it ends, with the time that it has taken on a terminal."""
    terminal = sys.stderr.isatty() and bool(text)
    if text and not terminal:
        print(f"{text} (a large model takes minutes)", file=sys.stderr)
    bar = tqdm(
        total=0,
        desc=text,
        bar_format="{desc} [{elapsed}]",
        disable=not terminal,
        leave=False,
    )
    with bar:
        while process.poll() is None:
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                bar.refresh()


def _died(code: int, errors: str) -> str:
    """Why a compiler ended without a result."""
    last = [line.strip() for line in errors.splitlines() if line.strip()]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    said = f": {last[-1][:300]}" if last else ""
    if code == -9:
        said = " (out of this machine's memory, most likely)"
    return f"the compiler ended with {how}{said}"
