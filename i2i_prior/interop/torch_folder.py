"""Folder with a prior for PyTorch, written and read.

FOLDER/i2i_prior_torch.py, a copy of `torch_export/i2i_prior_torch.py`, has our
networks in torch; model.safetensors has our names in torch's conventions.
config.json and a model card complete the folder.
"""

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.config import flatten, from_flat
from i2i_prior.config.config import FIELDS, RENAMED
from i2i_prior.errors import UserError
from i2i_prior.interop import autoencoders
from i2i_prior.interop.files.state_dicts import (
    read_state_dict,
    write_state_dict,
)
from i2i_prior.interop.layouts import conversion, mapping
from i2i_prior.interop.layouts.autoencoder_detection import diffusers_config
from i2i_prior.io import files
from i2i_prior.models.autoencoder import Pixels
from i2i_prior.tasks import network
from i2i_prior.tasks.resolve import resolve
from i2i_prior.version import __version__

FORMAT = "i2i_prior/torch"
FORMAT_VERSION = 1
TEMPLATE = Path(__file__).with_name("torch_export") / "i2i_prior_torch.py"

Layout = tuple[Any, dict[str, Any]]
_PREFIX = "autoencoder/"
# Layers that `models.scan` stacks on the first axis.
_STACKED = re.compile(r"^(dit|encoder)/blocks/")


def torch_rules(arrays: Mapping[str, Any]) -> list[mapping.Rule]:
    """Returns the rules between our names and the keys of the torch folder.

    `dit/blocks/mlp/fc1/kernel` (L, in, out) becomes
    `dit.blocks.{i}.mlp.fc1.weight` (out, in), a gain becomes a weight, a
    convolution's kernel (h, w, I, O) a weight (O, I, h, w); all else keeps
    its name and shape.
    """
    names: mapping.Names = {}
    for name in arrays:
        key = _STACKED.sub(r"\1/blocks/{i}/", name).replace("/", ".")
        names[name] = re.sub(r"\.(kernel|gain)$", ".weight", key)
    return mapping.rules_of(names, arrays)


def write_torch_folder(
    out: Path,
    parameters: Mapping[str, Any],
    config: ConfigDict,
    provenance: dict[str, Any],
) -> int:
    """Writes a folder that appears when it is complete; returns its bytes.

    The folder may exist if it is empty. The parameters are arrays by our names,
    all of the config's model. `provenance`, for the model card and config.json,
    has step, weights ("ema" or "raw"), config_hash, data_source and
    data_fingerprint, as far as known. UserError where the folder holds anything
    or cannot be written.
    """
    out = files.local_path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already; name a new folder")
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    facts = {
        "name": config.name,
        **provenance,
        "parameters": sum(math.prod(a.shape) for a in parameters.values()),
        "i2i_prior": __version__,
    }
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "provenance": facts,
        "modules": module_shapes(config),
        **flatten(config),
    }
    main, apart = dict(parameters), {}
    if described := _diffusers_layout(config):
        for name in [name for name in main if name.startswith(_PREFIX)]:
            apart[name.removeprefix(_PREFIX)] = main.pop(name)
    try:
        partial.mkdir(parents=True)
        write_state_dict(
            partial / "model.safetensors",
            conversion.save(main, torch_rules(main)),
            metadata={"format": "pt"},  # required by transformers
        )
        files.write_json(partial / "config.json", description)
        card = model_card(config, facts, out.name)
        (partial / "README.md").write_text(card, encoding="utf-8")
        shutil.copyfile(TEMPLATE, partial / TEMPLATE.name)
        if described:
            shape, diffusers = described
            folder = partial / "autoencoder"
            files.write_json(folder / "config.json", diffusers)
            write_state_dict(
                folder / "diffusion_pytorch_model.safetensors",
                autoencoders.export(apart, shape, "diffusers"),
                metadata={"format": "pt"},
            )
        written = [file for file in partial.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in written)
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def read_torch_folder(path: Path) -> tuple[dict[str, np.ndarray], ConfigDict]:
    """Reads a folder that `write_torch_folder` wrote.

    Returns our name -> float32 array, bit for bit what was exported, and the
    config of the run. UserError where it is no such folder, or its weights do
    not fit its config.
    """
    path = Path(path)
    try:
        text = (path / "config.json").read_text(encoding="utf-8")
        description = json.loads(text)
        version = description["format"], description["format_version"]
    except OSError as error:
        raise UserError(f"cannot read {path}/config.json ({error})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}/config.json is not one that `i2i-prior export --format "
            "torch` wrote; copy the folder again"
        ) from error
    if version != (FORMAT, FORMAT_VERSION):
        raise UserError(
            f"{path} has the format {version[0]} {version[1]}, this version "
            f"reads {FORMAT} {FORMAT_VERSION}; install a matching i2i-prior"
        )
    known = {*FIELDS, *RENAMED}
    config = from_flat({k: v for k, v in description.items() if k in known})
    structs = network.parameter_shapes(config)
    parts = {}
    if _diffusers_layout(config):
        folder = read_state_dict(path / "autoencoder")
        _, loaded, _ = autoencoders.load(folder)
        parts = {_PREFIX + name: array for name, array in loaded.items()}
        structs = {k: v for k, v in structs.items() if k not in parts}
    loaded = conversion.read(
        read_state_dict(path / "model.safetensors"),
        torch_rules(structs),
        structs,
        layout="torch folder",
    )
    return loaded | parts, config


def _diffusers_layout(config: ConfigDict) -> Layout | None:
    """Returns config and config.json of an autoencoder that diffusers has.

    It gets a folder of its own; others (None) stay in the main weight file.
    """
    shapes = resolve(config)
    shape = shapes.latent
    if not shapes.has_autoencoder or isinstance(shape, Pixels):
        return None
    if shape.kind != "kl" or shape.batch_norm:
        return None
    try:
        return shape, diffusers_config(shape)
    except UserError:
        return None


def module_shapes(config: ConfigDict) -> dict[str, Any]:
    """Returns the configs of the torch file's networks, as JSON values.

    They are the fields of `DiTConfig`, `ConditionerConfig` and `ViTConfig`
    of the run, and of the latent space; None for a missing network.
    """
    shapes = resolve(config)
    conditioner, vit = shapes.conditioner, shapes.encoder
    return {
        "dit": _fields(shapes.dit),
        "conditioner": conditioner
        and {**_fields(conditioner), "embeddings": conditioner.embeddings},
        "encoder": vit and {**_fields(vit), "hidden": vit.hidden},
        "latent": _fields(shapes.latent),
    }


def _fields(shape: Any) -> dict[str, Any]:
    """Returns a config's fields without those of its computation in JAX."""
    ours = ("precision", "remat", "attention", "scan_unroll", "mup_base_width")
    fields = dataclasses.asdict(shape)
    return {name: v for name, v in fields.items() if name not in ours}


def model_card(config: ConfigDict, facts: dict[str, Any], folder: str) -> str:
    """Returns the README.md of the folder: use and provenance."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    sampler = (
        f"{config.sample.solver}, {config.sample.steps} steps, guidance "
        f"{config.sample.guidance:g}"
    )
    encoder, kind = config.encoder, config.autoencoder.kind
    embeds = encoder.kind != "none" and encoder.family == "dino"
    labels = config.conditioner.tokens_from == "none"
    condition = "class labels" if labels else "tokens given to it"
    if encoder.kind != "none":
        condition = "the embedding of an image"
    use = 'images = prior.vary(["cat.png"], num=4)  # uint8 (1, 4, H, W, 3)'
    decodes = kind == "pixels" or _diffusers_layout(config)
    if not embeds or not decodes:
        # The torch file has no code for `vary`.
        given = "pooled=labels" if labels else "tokens"
        use = f"latents = prior.sample(noise, {given})  # (B, C, H, W)"
    return _CARD.format(
        name=config.name,
        folder=folder,
        rows=rows,
        sampler=sampler,
        use=use,
        condition=condition,
        block=config.model.block,
        size=config.data.image_size,
        latents="pixels" if kind == "pixels" else f"{kind} latents",
    )


_CARD = """# {name}

A generative prior of i2i_prior: a diffusion transformer ({block} blocks) that
makes images of {size} x {size}, as {latents}, from {condition}.

```python
import sys
sys.path.insert(0, "{folder}")
from i2i_prior_torch import Prior
prior = Prior.from_pretrained("{folder}")
{use}
```

This needs torch and safetensors, and Pillow for images given as paths.
`Prior` is an `nn.Module`, so `.to("cuda")` and `.to(torch.bfloat16)` work, and
it has

- `vary(images, num)`, `interpolate(start, end, frames)`, `embed(images)`,
  where the image encoder was trained here or is DINO, and the latents are
  pixels or a diffusers AutoencoderKL in `autoencoder/` (needs diffusers);
- `predict(x_t, timestep, tokens)`: the raw network, NCHW;
- `sample(noise, tokens)`: latents from given noise, NCHW. This run's own
  sampler: {sampler}.

`i2i-prior` opens the folder as well: `i2i_prior.Prior.load("{folder}")`.

| Provenance | |
|---|---|
{rows}

The code in `i2i_prior_torch.py` is licensed under Apache-2.0.
"""
