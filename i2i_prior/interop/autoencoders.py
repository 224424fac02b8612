"""Autoencoder weights of others: loaded, used, written back."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.layouts import mapping
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
from i2i_prior.interop.layouts.mapping import Tensor
from i2i_prior.models.autoencoder import make_autoencoder
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.functional import Functional, make_functional
from i2i_prior.models.precision import Array

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict

Loaded = tuple[AutoencoderConfig, dict[str, np.ndarray], list[str]]

# Losses and averages of its training, and a counter that is never read.
_IGNORE = (r"loss\.", r"model_ema\.", r"bn\.num_batches_tracked$")


@functools.cache
def functional_of(
    config: AutoencoderConfig, precision: str = "float32"
) -> Functional:
    """The module of a config as a function of named arrays."""
    return make_functional(
        lambda rngs: make_autoencoder(config, precision, rngs=rngs)
    )[0]


def load(state: StateDict, *, preset: str | None = None) -> Loaded:
    """Weights of any known layout as ours.

    Args:
      state: of one file or folder with both halves.
      preset: a name of `AUTOENCODERS` for what neither shapes nor a
        config.json tell: scale, shift and groups.

    Returns:
      config; our name -> float32 array; and a sentence for each thing that
      was assumed.

    Raises:
      UserError: where the weights are of no known layout, do not fit
        together or do not fit the preset; nothing is read then.
    """
    layout = detect(state.shapes, state.path)
    if isinstance(layout, TinyLayout) and None in layout.prefixes:
        raise UserError(
            f"{state.path} is one half of a tiny autoencoder "
            f"({layout.name}); give both files, the encoder's first"
        )
    known = state.config or {}
    return _load(state, state.shapes, layout, known, preset, state.path)


def load_tiny_pair(
    encoder_path: str | Path,
    decoder_path: str | Path,
    *,
    preset: str | None = None,
) -> Loaded:
    """As `load`, from the two files that TAESD and its kin come in.

    Raises:
      UserError: as `load`, and where a file is not the half it should be.
    """
    from i2i_prior.interop.files.state_dicts import read_state_dict

    both: dict[str, np.ndarray] = {}
    for half, path in (("encoder", encoder_path), ("decoder", decoder_path)):
        state = read_state_dict(path)
        found = detect(state.shapes, path).name
        if found != f"taesd-{half}":
            raise UserError(
                f"{path} is not the {half} of a TAESD pair but {found}; give "
                "the encoder's file first, the decoder's second"
            )
        both.update({f"{half}.{key}": array for key, array in state.items()})
    shapes = {key: array.shape for key, array in both.items()}
    path = f"{encoder_path} with {decoder_path}"
    return _load(both, shapes, TINY_LAYOUTS["taesd"], {}, preset, path)


def _load(
    state: Mapping[str, np.ndarray],
    found: Mapping[str, tuple[int, ...]],
    layout: KlLayout | TinyLayout,
    known: Mapping[str, Any],
    preset: str | None,
    path: Any,
) -> Loaded:
    config, notes = complete(infer(found, layout), known, preset, path)
    rules = layout.rules(config)
    prefix = layout.prefix if isinstance(layout, KlLayout) else ""
    # Without the prefix it is the rest of a whole checkpoint.
    others = [f"^(?!{re.escape(prefix)})"] if prefix else []
    ignore = [f"^{re.escape(prefix)}{pattern}" for pattern in _IGNORE]
    structs = functional_of(config).shapes()
    shapes = {name: struct.shape for name, struct in structs.items()}
    mapping.check(
        found,
        rules,
        shapes,
        path=path,
        layout=f"{layout.name} autoencoder",
        ignore=[*ignore, *others],
    )
    return config, mapping.load(state, rules, shapes, path=path), notes


def export(
    parameters: Mapping[str, Any],
    config: AutoencoderConfig,
    layout: str | KlLayout | TinyLayout = "diffusers",
) -> Iterator[tuple[str, Tensor]]:
    """Our weights as theirs, one tensor at a time.

    Args:
      parameters: our name -> array.
      config: of the autoencoder.
      layout: for kl a name of `KL_LAYOUTS`, for tiny one of `TINY_LAYOUTS`,
        or what `detect` found.

    Returns:
      (key, tensor) of each.

    Raises:
      UserError: where no layout has this name.
    """
    if isinstance(layout, str):
        names: Mapping[str, KlLayout | TinyLayout] = (
            KL_LAYOUTS if config.kind == "kl" else TINY_LAYOUTS
        )
        if layout not in names:
            raise UserError(
                f"no layout {layout!r} for a {config.kind} autoencoder; use "
                f"one of {', '.join(names)}"
            )
        layout = names[layout]
    yield from mapping.save(parameters, layout.rules(config))
    if isinstance(layout, KlLayout) and config.batch_norm:
        # torch wants to see the counter of its batch norm, and never uses it.
        key = f"{layout.prefix}bn.num_batches_tracked"
        yield key, Tensor((), lambda: np.zeros((), np.int64))


class Autoencoder:
    """An autoencoder with its weights, compiled once a shape.

    Attributes:
      config: shape and normalisation.
      parameters: our name -> array.
      notes: what was assumed when it was loaded.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        parameters: Mapping[str, Any],
        precision: str = "float32",
        notes: list[str] | None = None,
    ):
        functional = functional_of(config, precision)
        self.config = config
        self.parameters = {k: jnp.asarray(v) for k, v in parameters.items()}
        self.notes = notes or []
        self._encode = jax.jit(lambda p, x: functional.merge(p).encode(x))
        self._decode = jax.jit(lambda p, z: functional.merge(p).decode(z))

    def encode(self, images: Any) -> Array:
        """images float (B, H, W, 3) in [-1, 1] -> normalised latents.

        Returns:
          float32 (B, H / f, W / f, channels).

        Raises:
          UserError: where a side is no multiple of the factor.
        """
        return self._encode(self.parameters, images)

    def decode(self, latents: Any) -> Array:
        """latents (B, h, w, channels) -> images, not clipped.

        Returns:
          float32 (B, f h, f w, 3), about [-1, 1].
        """
        return self._decode(self.parameters, latents)


def load_autoencoder(
    path: str | Path,
    decoder_path: str | Path | None = None,
    preset: str | None = None,
    precision: str = "float32",
) -> Autoencoder:
    """An autoencoder from a file or folder, or from a TAESD pair.

    Args:
      path: weights (.safetensors, .pth, ...), or the encoder's of a pair.
      decoder_path: the decoder's of a pair.
      preset: as for `load`.
      precision: a name of `matmul.PRECISIONS`.

    Raises:
      UserError: as `load`.
    """
    from i2i_prior.interop.files.state_dicts import read_state_dict

    if decoder_path is not None:
        loaded = load_tiny_pair(path, decoder_path, preset=preset)
    else:
        loaded = load(read_state_dict(path), preset=preset)
    config, parameters, notes = loaded
    return Autoencoder(config, parameters, precision, notes)
