"""`i2i-prior compile`: asks a child process to compile, tells what it found."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from i2i_prior.ahead.compile import assume_weights
from i2i_prior.ahead.report import candidate_table, report
from i2i_prior.ahead.topologies import (
    Topology,
    check_compiler,
    parse_topology,
)
from i2i_prior.config import flatten, load_config
from i2i_prior.errors import UserError
from i2i_prior.validate import validate
from i2i_prior.workdir import write_json


def compile_(options: argparse.Namespace, overrides: list[str]) -> int:
    """Compiles, or with --auto searches; prints, and writes --json.

    Returns:
      0 where the program compiled and fits into every chip's memory, else 1.

    Raises:
      UserError: for a mistake in config, topology or mesh, or where the
        platform's compiler is not installed.
    """
    for file in filter(None, (options.json, options.hlo)):
        _make_way(Path(file))
    topology = parse_topology(options.topology)
    check_compiler(topology)
    mesh = mesh_overrides(options.mesh)
    config = load_config(options.config, [*overrides, *mesh])
    assume_weights(config)
    if options.auto:
        from i2i_prior.ahead.auto import search

        if mesh:
            raise UserError("--auto chooses the mesh itself; leave --mesh out")
        result = search(config, topology, options.quick, options.hlo)
        print(candidate_table(result["candidates"]))
        print()
    else:
        validate(config, topology.chips)
        result = compile_in_child(config, topology, options.quick, options.hlo)
    print(report(result))
    if options.json:
        write_json(Path(options.json), result)
    return 0 if result["compiled"] and result["fits"] else 1


def mesh_overrides(text: str | None) -> list[str]:
    """`fsdp=16,tensor=2` -> config overrides, mesh.fsdp=16 and so on.

    Raises:
      UserError: for a pair without a sign; names and numbers are checked as
        any override.
    """
    pairs = [pair.strip() for pair in (text or "").split(",") if pair.strip()]
    for pair in pairs:
        if "=" not in pair:
            raise UserError(
                f"--mesh takes axis=size pairs as fsdp=16,tensor=2, not {text}"
            )
    return [f"mesh.{pair}" for pair in pairs]


def _make_way(path: Path) -> None:
    """For a file to come: that of an earlier call would pass for this one's
    where this one ends without a result."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    if not path.absolute().parent.is_dir():
        raise UserError(f"no folder {path.parent} for {path}; make it first")
    path.unlink(missing_ok=True)


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
                    "i2i_prior.ahead.compile",
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
    path = str(Path(__file__).resolve().parents[1])
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
