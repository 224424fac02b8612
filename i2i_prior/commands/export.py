"""`i2i-prior export`: writes weights for other programs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2i_prior.commands import common
from i2i_prior.errors import UserError
from i2i_prior.interop.layouts import LAYOUTS

if TYPE_CHECKING:
    from i2i_prior.inference.load import Loaded

EXAMPLE = (
    "i2i-prior export --workdir runs/quickstart --format torch --out prior"
)

# Formats that are not layouts of published checkpoints.
_OWN_FORMATS = ("native", "torch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("--workdir", required=True, help="run directory, or a weight file")
    common.add_step(parser)
    add(
        "--format",
        choices=(*_OWN_FORMATS, *LAYOUTS),
        default="native",
        help="layout; torch is a folder with its own PyTorch module",
    )
    common.add_weights(parser)
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of a published layout's file",
    )
    add("--part", choices=("all", "encoder"), default="all")
    add("--out", required=True, help="FILE.safetensors, FILE.pth or a folder")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes weights with config and provenance."""
    from i2i_prior.inference.load import count_parameters, load_model
    from i2i_prior.interop import export as layouts
    from i2i_prior.interop import native

    began = time.monotonic()
    if options.part == "encoder" and options.format != "native":
        raise UserError(
            "--part encoder is written as native; leave out --format"
        )
    if options.dtype != "float32" and options.format in _OWN_FORMATS:
        raise UserError(
            f"--format {options.format} is always float32; leave out --dtype"
        )
    loaded = load_model(
        options.workdir, step=options.step, weights=options.weights
    )
    provenance = _provenance(loaded, options)
    config = loaded.config
    out = Path(options.out)
    parts: tuple[str, ...] = ("",)
    if options.part == "encoder":
        parts = ("encoder/",)
        if config.encoder.kind == "none":
            raise UserError("this model has no image encoder to export")
    elif options.format not in _OWN_FORMATS:
        parts = ("dit/", "conditioner/")
    parameters = {
        name: array
        for name, array in loaded.parameters.items()
        if name.startswith(parts)
    }
    if options.format == "native":
        size = native.write(out, parameters, config, provenance)
    elif options.format == "torch":
        from i2i_prior.interop.torch_folder import write_torch_folder

        size = write_torch_folder(out, parameters, config, provenance)
    else:
        size = layouts.export_file(
            out,
            parameters,
            config,
            options.format,
            dtype=options.dtype,
            metadata={k: str(v) for k, v in provenance.items()},
        )
        for line in layouts.caveats(config, options.format):
            print(f"note: {line}")
    count = count_parameters(parameters, config)
    print(
        f"{out}: {len(parameters)} arrays, {count:,} parameters, "
        f"{size / 2**20:.1f} MiB, {time.monotonic() - began:.1f} s"
    )
    return 0


def _provenance(loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    from i2i_prior.checkpoint.run_dir import read_json
    from i2i_prior.config import config_hash

    facts = {}
    if loaded.layout == "run":
        facts = read_json(Path(options.workdir) / "metadata.json")
    return {
        "name": loaded.config.name,
        "step": loaded.step,
        "weights": options.weights,
        "part": options.part,
        "config_hash": facts.get("config_hash", config_hash(loaded.config)),
        "data_fingerprint": facts.get("data_fingerprint"),
        "data_source": facts.get("data_source"),
    }
