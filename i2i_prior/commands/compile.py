"""`i2i-prior compile`: asks a child process to compile, tells what it found."""

from __future__ import annotations

import argparse
from pathlib import Path

from i2i_prior.aot.child import compile_in_child
from i2i_prior.aot.compile import assume_weights
from i2i_prior.aot.report import (
    candidate_table,
    report,
)
from i2i_prior.aot.topologies import (
    check_compiler,
    parse_topology,
)
from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.config import load_config
from i2i_prior.errors import UserError
from i2i_prior.training.validate import validate


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
        from i2i_prior.aot.estimate.auto import search

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
