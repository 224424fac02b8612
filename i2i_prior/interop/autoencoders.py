"""Import and export of published autoencoders."""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.hashing import files_of
from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.files.state_dicts import StateDict, read_state_dict
from i2i_prior.interop.layouts import conversion, mapping
from i2i_prior.interop.layouts.autoencoder import (
    KL_LAYOUTS,
    TINY_LAYOUTS,
    KlLayout,
    TinyLayout,
)
from i2i_prior.interop.layouts.autoencoder_detection import (
    complete,
    detect,
    infer,
)
from i2i_prior.models.autoencoder import make_autoencoder
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.functional import Functional, make_functional

Loaded = tuple[AutoencoderConfig, dict[str, np.ndarray], list[str]]

# Losses and averages of its training, and a counter that is never read.
_IGNORE = (r"loss\.", r"model_ema\.", r"bn\.num_batches_tracked$")


@functools.cache
def functional_of(
    config: AutoencoderConfig, precision: str = "float32"
) -> Functional:
    """Returns the module of a config as functions of named arrays."""
    return make_functional(
        lambda rngs: make_autoencoder(config, precision, rngs=rngs)
    )[0]


def load(state: StateDict, *, preset: str | None = None) -> Loaded:
    """Reads an autoencoder of any known layout, from a file of both halves.

    `preset` is a name of `AUTOENCODERS` for scale, shift and groups, which
    neither shapes nor a config.json may contain. Returns config; our name ->
    float32 array; and a sentence for each assumption. UserError where the
    weights are of no known layout, do not fit together or do not fit the
    preset; nothing is read then.
    """
    layout = detect(state.shapes, state.path)
    if isinstance(layout, TinyLayout) and None in layout.prefixes:
        raise UserError(
            f"{state.path} is one half of a tiny autoencoder "
            f"({layout.name}); give both files, the encoder's first"
        )
    with mapping.implied_shapes(state.path, "an autoencoder"):
        found = infer(state.shapes, layout)
    config, notes = complete(found, state.config or {}, preset, state.path)
    prefix = re.escape(layout.prefix) if isinstance(layout, KlLayout) else ""
    ignore = [f"^{prefix}{pattern}" for pattern in _IGNORE]
    if prefix:  # the other networks of a whole checkpoint
        ignore.append(f"^(?!{prefix})")
    structs = functional_of(config).shapes()
    parameters = conversion.read(
        state,
        layout.rules(config, structs),
        structs,
        layout=f"{layout.name} autoencoder",
        ignore=ignore,
    )
    return config, parameters, notes


def load_files(weights: str | Path, preset: str | None = None) -> Loaded:
    """Reads an autoencoder from a file or folder, or a pair as TAESD's.

    `weights` is the path, or both as `ENCODER,DECODER`; `preset` is as for
    `load`. UserError as there, or where a file is not the half it should be.
    """
    files = files_of(weights)
    if len(files) == 1:
        return load(read_state_dict(files[0]), preset=preset)
    both: dict[str, np.ndarray] = {}
    for half, path in zip(("encoder", "decoder"), files, strict=True):
        state = read_state_dict(path)
        found = detect(state.shapes, path).name
        if found != f"taesd-{half}":
            raise UserError(
                f"{path} is not the {half} of a TAESD pair but {found}; give "
                "the encoder's file first, the decoder's second"
            )
        both |= {f"{half}.{key}": array for key, array in state.items()}
    pair = StateDict.from_arrays(both, path=" with ".join(map(str, files)))
    return load(pair, preset=preset)


def export(
    parameters: Mapping[str, Any],
    config: AutoencoderConfig,
    layout: str | KlLayout | TinyLayout,
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields (key, tensor) of an autoencoder in a published layout.

    The parameters are arrays by our names. The layout is for kl a name of
    `KL_LAYOUTS`, for tiny one of `TINY_LAYOUTS`, or a layout itself; UserError
    where none has this name.
    """
    names: Mapping[str, KlLayout | TinyLayout] = TINY_LAYOUTS
    if config.kind == "kl":
        names = KL_LAYOUTS
    spec = names.get(layout) if isinstance(layout, str) else layout
    if spec is None:
        raise UserError(
            f"no layout {layout!r} for a {config.kind} autoencoder; use "
            f"one of {', '.join(names)}"
        )
    yield from conversion.save(parameters, spec.rules(config, parameters))
    if isinstance(spec, KlLayout) and config.batch_norm:
        # torch requires the counter of its batch norm, and never uses it.
        key = f"{spec.prefix}bn.num_batches_tracked"
        yield key, LazyTensor((), lambda: np.zeros((), np.int64))
