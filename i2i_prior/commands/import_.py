"""`i2i-prior import`: reads weights of other programs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from i2i_prior.commands import common
from i2i_prior.errors import UserError
from i2i_prior.interop.layouts import LAYOUTS

if TYPE_CHECKING:
    from i2i_prior.inference.load import Loaded

EXAMPLE = (
    "i2i-prior import lumos.pth --workdir runs/lumos --encoder dino.pth "
    "--autoencoder sd-vae/"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("file", help="safetensors, a torch file, or a folder with either")
    add("--workdir", help="new run directory, else only look")
    add("--format", choices=LAYOUTS, help="layout, else it is detected")
    common.add_weights(parser)
    add("--heads", type=int, help="attention heads")
    add("--base-size", type=int, help="tokens a side that positions count in")
    add("--position-scale", type=float, help="Lumos' lewei_scale")
    add("--encoder", help="image encoder of the conditions")
    add("--encoder-heads", type=int, help="its heads")
    add("--encoder-family", help="as dino, mae, ijepa")
    add("--autoencoder", help="of the latents; a pair as ENCODER,DECODER")
    add("--autoencoder-kind", help="sd, sdxl, sd3, ... if it is not detected")
    add(
        "--precision",
        choices=("float32", "bfloat16", "bfloat16_matmul"),
        help="of the run's computation, else float32",
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Detects the layout; with --workdir writes a run directory."""
    from i2i_prior.inference.load import load_model

    began = time.monotonic()
    if not Path(options.file).exists():
        raise UserError(f"no file or folder {options.file}")
    only_look = options.format is None and not options.workdir
    if only_look and (other := _other_network(Path(options.file))):
        print(f"{options.file}: {other}")
        return 0
    workdir = Path(options.workdir) if options.workdir else None
    file = workdir and workdir.exists() and not workdir.is_dir()
    if workdir and (file or any(workdir.glob("*"))):
        raise UserError(f"--workdir {workdir} is not empty; choose a new one")
    loaded = load_model(
        options.file,
        layout=options.format,
        weights=options.weights,
        heads=options.heads,
        base_size=options.base_size,
        position_scale=options.position_scale,
        encoder=options.encoder,
        encoder_heads=options.encoder_heads,
        encoder_family=options.encoder_family,
        autoencoder=options.autoencoder,
        autoencoder_kind=options.autoencoder_kind,
        precision=options.precision,
    )
    _describe(options.file, loaded)
    if workdir:
        _write_run(workdir, loaded, options.file)
        print(f"{workdir}: written in {time.monotonic() - began:.1f} s")
    return 0


def _describe(file: str, loaded: Loaded) -> None:
    """Prints the layout, the size, and the fields of the implied config."""
    from i2i_prior.config import default_config, flatten
    from i2i_prior.inference.load import count_parameters

    count = count_parameters(loaded.parameters, loaded.config)
    print(
        f"{file}: {loaded.layout}, {count:,} parameters "
        f"in {len(loaded.parameters)} arrays"
    )
    defaults = flatten(default_config())
    for name, value in flatten(loaded.config).items():
        if value != defaults[name]:
            print(f"  {name} = {value!r}")
    for line in loaded.notes:
        print(f"note: {line}")


def _write_run(workdir: Path, loaded: Loaded, file: str) -> None:
    """Writes the weights, metadata.json, and config.json."""
    from i2i_prior.checkpoint import run_dir
    from i2i_prior.config import config_hash
    from i2i_prior.inference.load import count_parameters
    from i2i_prior.interop import native
    from i2i_prior.training.metadata import versions

    origin = {"imported_from": str(file), "layout": loaded.layout}
    weights = workdir / run_dir.WEIGHTS
    native.write(weights, loaded.parameters, loaded.config, origin)
    facts = {
        "name": loaded.config.name,
        "config_hash": config_hash(loaded.config),
        "versions": versions(),
        "parameters": count_parameters(loaded.parameters, loaded.config),
        **origin,
    }
    run_dir.write_json(workdir / "metadata.json", facts)
    # Last: a folder without it is no run directory.
    run_dir.claim(workdir, loaded.config)


def _other_network(path: Path) -> str | None:
    """Description of a file that holds another network than a prior."""
    from i2i_prior.interop import native
    from i2i_prior.interop.files.state_dicts import read_state_dict
    from i2i_prior.interop.import_checkpoint import describe_other_network
    from i2i_prior.interop.layouts.dit_detection import detect

    if native.is_native(path) or (path / "i2i_prior_torch.py").exists():
        return None
    state = read_state_dict(path)
    return None if detect(state.shapes) else describe_other_network(state)
