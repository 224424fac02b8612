"""`import` and `export`: weights from PyTorch, and to it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.checkpoint import run_dir as workdirs
from i2i_prior.config import config_hash, default_config, flatten
from i2i_prior.errors import UserError
from i2i_prior.inference.load import (
    Loaded,
    load_model,
)
from i2i_prior.interop import native

# Formats of `export` beside the layouts of `interop.recognise`.
OWN_FORMATS = ("native", "torch")


def export(options: argparse.Namespace) -> int:
    """Writes weights with config and provenance; EMA unless asked."""
    from i2i_prior.interop import export as layouts

    began = time.monotonic()
    if options.part == "encoder" and options.format != "native":
        raise UserError(
            "--part encoder is written as native; leave out --format"
        )
    if options.dtype != "float32" and options.format in OWN_FORMATS:
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
    elif options.format not in OWN_FORMATS:
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
    facts = {}
    if loaded.layout == "run":
        facts = workdirs.read_json(Path(options.workdir) / "metadata.json")
    return {
        "name": loaded.config.name,
        "step": loaded.step,
        "weights": options.weights,
        "part": options.part,
        "config_hash": facts.get("config_hash", config_hash(loaded.config)),
        "data_fingerprint": facts.get("data_fingerprint"),
        "data_source": facts.get("data_source"),
    }


def import_(options: argparse.Namespace) -> int:
    """Recognises weights; with --workdir writes them as a run directory."""
    began = time.monotonic()
    if not Path(options.file).exists():
        raise UserError(f"no file or folder {options.file}")
    only_look = options.format is None and not options.workdir
    if only_look and (other := _other_network(Path(options.file))):
        print(f"{options.file}: {other}")
        return 0
    workdir = None
    if options.workdir:
        workdir = Path(options.workdir)
        if workdir.exists() and (
            not workdir.is_dir() or any(workdir.iterdir())
        ):
            raise UserError(
                f"--workdir {workdir} is not empty; choose a new one"
            )
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
    if workdir is not None:
        _write_run(workdir, loaded, options.file)
        print(f"{workdir}: written in {time.monotonic() - began:.1f} s")
    return 0


def _describe(file: str, loaded: Loaded) -> None:
    """What was recognised, its size, and the config it implies."""
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
    """The weights, metadata.json, and config.json."""
    from i2i_prior.training.metadata import versions

    origin = {"imported_from": str(file), "layout": loaded.layout}
    weights = workdir / workdirs.WEIGHTS
    native.write(weights, loaded.parameters, loaded.config, origin)
    facts = {
        "name": loaded.config.name,
        "config_hash": config_hash(loaded.config),
        "versions": versions(),
        "parameters": count_parameters(loaded.parameters, loaded.config),
        **origin,
    }
    workdirs.write_json(workdir / "metadata.json", facts)
    # Last: a folder without it is no run directory.
    workdirs.claim(workdir, loaded.config)


def _other_network(path: Path) -> str | None:
    """What the file is where it is no prior; it is only to be looked at."""
    from i2i_prior.interop.files.state_dicts import read_state_dict
    from i2i_prior.interop.import_checkpoint import other_network
    from i2i_prior.interop.layouts import detect

    if native.is_native(path) or (path / "i2i_prior_torch.py").exists():
        return None
    state = read_state_dict(path)
    return None if detect.detect(state.shapes) else other_network(state)


def count_parameters(parameters: dict[str, Any], config: ConfigDict) -> int:
    """Numbers in all networks, without the untrained null token's."""
    trained = config.conditioner.null == "trained"
    return sum(
        int(np.prod(array.shape))
        for name, array in parameters.items()
        if trained or name != "conditioner/null"
    )
