"""`i2i-prior compile`: compiles a step in a child process."""

import argparse
import os
from pathlib import Path

from i2i_prior.commands import common
from i2i_prior.errors import UserError

EXAMPLE = (
    "i2i-prior compile --config configs/lumos_xl2.py --topology v5e:16x16 "
    "--mesh replica=16,fsdp=16"
)
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    common.add_config(parser)
    add(
        "--topology",
        required=True,
        help="as v5e:16x16, v5p:8x8x4*2 (two slices), h100x16",
    )
    add("--mesh", help="as replica=16,fsdp=16, else the config's")
    add(
        "--auto",
        action="store_true",
        help="search mesh, remat policy and micro-batch",
    )
    add("--quick", action="store_true", help="less effort of the compiler")
    add("--json", metavar="OUT", help="write the result here")
    add("--hlo", metavar="OUT", help="keep XLA's program")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Compiles, or with --auto searches; prints, and writes --json.

    Returns:
      0 if the program compiled and fits into every chip's memory, else 1.
    """
    # Before JAX is imported: this process only counts, its children compile.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from i2i_prior.aot.child import compile_in_child
    from i2i_prior.aot.compile import assume_weights
    from i2i_prior.aot.report import candidate_table, report
    from i2i_prior.aot.topologies import check_compiler, parse_topology
    from i2i_prior.checkpoint.run_dir import write_json
    from i2i_prior.config import load_config
    from i2i_prior.training.validate import validate

    for file in filter(None, (options.json, options.hlo)):
        _clear_output(Path(file))
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
        write_json(Path(options.json), result, "choose another --json")
    return 0 if result["compiled"] and result["fits"] else 1


def mesh_overrides(text: str | None) -> list[str]:
    """Config overrides (mesh.fsdp=16, ...) of `fsdp=16,tensor=2`; names and
    sizes are checked like those of any override."""
    pairs = [pair.strip() for pair in (text or "").split(",") if pair.strip()]
    for pair in pairs:
        if "=" not in pair:
            raise UserError(
                f"--mesh takes axis=size pairs as fsdp=16,tensor=2, not {text}"
            )
    return [f"mesh.{pair}" for pair in pairs]


def _clear_output(path: Path) -> None:
    """Removes the file of an earlier call, which would pass for the result of
    this one if this one fails."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    if not path.absolute().parent.is_dir():
        raise UserError(f"no folder {path.parent} for {path}; make it first")
    path.unlink(missing_ok=True)
