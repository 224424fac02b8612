"""Import and export of published image encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.mapping import (
    LINEAR,
    SAME,
    Rule,
    compose,
    linear,
    norm,
    patch_conv,
    reshaped,
    same,
    split,
)
from i2i_prior.interop.layouts.vit import LAYOUTS, Layout, fits, key_of
from i2i_prior.interop.layouts.vit_detection import Described, describe, detect
from i2i_prior.models.encoder_families import FAMILIES, ViTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict

__all__ = [
    "LAYOUTS",
    "Described",
    "describe",
    "detect",
    "export",
    "load",
    "rules",
]


def load(
    state: StateDict,
    *,
    layout: str | None = None,
    heads: int | None = None,
    family: str | None = None,
) -> tuple[ViTConfig, dict[str, np.ndarray], list[str]]:
    """Reads an encoder; the arguments are those of `describe`.

    Returns:
      its config, its parameters by the names of `ViT` (float32), and notes.

    Raises:
      UserError: as `describe`; or a key is missing, unexpected or misshapen,
        or a weight is not finite.
    """
    found = describe(state, layout=layout, heads=heads, family=family)
    spec = LAYOUTS[found.layout]
    functional, _ = make_functional(lambda rngs: ViT(found.config, rngs=rngs))
    parameters = mapping.read(
        state,
        rules(spec, found.config, found.prefix),
        functional.shapes(),
        layout=found.layout,
        ignore=spec.ignore,
    )
    return found.config, parameters, found.notes


def export(
    parameters: Mapping[str, np.ndarray], config: ViTConfig, layout: str
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields parameters under another library's names, one at a time.

    Arrays that `load` ignores are not written: heads, poolers, mask tokens,
    MAE's decoder, the text half of CLIP and SigLIP, position ids.

    Args:
      parameters: by the names of `ViT`.
      config: of the encoder.
      layout: a key of `LAYOUTS`.

    Raises:
      UserError: the layout is unknown or has no names for a part.
    """
    if layout not in LAYOUTS:
        raise UserError(
            f"the encoder layout {layout!r} is unknown; choose one of "
            f"{', '.join(LAYOUTS)}"
        )
    spec = LAYOUTS[layout]
    if not fits(spec, config):
        raise UserError(
            f"an encoder of the family {config.family} does not have the "
            f"parts of the layout {layout}; choose another"
        )
    return mapping.save(parameters, rules(spec, config, spec.prefixes[0]))


def rules(layout: Layout, config: ViTConfig, prefix: str) -> list[Rule]:
    """Returns the rules of a layout, for an encoder of this config.

    Args:
      layout: a value of `LAYOUTS`.
      config: of the encoder.
      prefix: one of the layout's.
    """
    family = FAMILIES[config.family]
    names = {part: key_of(layout, part, prefix) for part in layout.names}
    flat, patch = layout.flat, config.patch

    def whole(part: str) -> str | tuple[str, ...]:
        keys = layout.names[part]
        if isinstance(keys, str):
            return names[part]
        return tuple(prefix + key for key in keys)

    def layers(ours: str, theirs: str | tuple[str, ...]) -> list[Rule]:
        return linear(f"blocks/{ours}", theirs, layers=config.depth)

    def tokens(ours: str, count: int) -> Rule:
        shape = (
            (count, config.width) if ours == "positions" else (config.width,)
        )
        lead = (1,) * (3 - len(shape))
        op = reshaped((*lead, *shape), shape) if flat else SAME
        return Rule((ours,), (names[ours],), op)

    found = [
        Rule(
            ("patch_embed/kernel",),
            (f"{names['patch_embed']}.weight",),
            patch_conv(patch),
        ),
        tokens("positions", config.grid**2 + family.cls),
        *norm("norm", names["norm"]),
        *norm("blocks/norm1", names["norm1"], layers=config.depth),
        *norm("blocks/norm2", names["norm2"], layers=config.depth),
        *layers("attention/out", names["out"]),
    ]
    if family.patch_bias:
        key = f"{names['patch_embed']}.bias"
        found.append(same("patch_embed/bias", key))
    if family.cls:
        found.append(tokens("cls", 1))
    if config.registers:
        found.append(same("registers", names["registers"]))
    if family.pre_norm:
        found += norm("pre_norm", names["pre_norm"])
    if names["qkv"].endswith("in_proj"):
        found += _in_proj(
            ("blocks/attention/qkv",), names["qkv"], layers=config.depth
        )
    else:
        found += layers("attention/qkv", whole("qkv"))
    if config.swiglu:
        found += layers("mlp/gate_value", whole("gate_value"))
        found += layers("mlp/out", names["gated_out"])
    else:
        found += layers("mlp/fc1", names["fc1"])
        found += layers("mlp/fc2", names["fc2"])
    if family.layer_scale:
        for part in ("scale1", "scale2"):
            found.append(
                same(f"blocks/{part}", names[part], layers=config.depth)
            )
    if family.attention_pool:
        found += _pool(names["pool"])
    if config.projection and names["projection"] == "visual.proj":
        found.append(same("projection/kernel", names["projection"]))
    elif config.projection:
        found += linear("projection", names["projection"], bias=False)
    return found


def _in_proj(
    ours: tuple[str, ...], key: str, layers: int | None = None
) -> list[Rule]:
    """Rules of the fused q, k, v of torch.nn.MultiheadAttention."""
    fuse = split(len(ours)) if len(ours) > 1 else SAME
    return [
        Rule(
            tuple(f"{name}/kernel" for name in ours),
            (f"{key}_weight",),
            compose(fuse, LINEAR),
            layers,
        ),
        Rule(
            tuple(f"{name}/bias" for name in ours),
            (f"{key}_bias",),
            fuse,
            layers,
        ),
    ]


def _pool(key: str) -> list[Rule]:
    attention = tuple(f"pool/attention/{name}" for name in "qkv")
    return [
        same("pool/probe", f"{key}.probe"),
        *_in_proj(attention, f"{key}.attention.in_proj"),
        *linear("pool/attention/out", f"{key}.attention.out_proj"),
        *norm("pool/norm", f"{key}.layernorm"),
        *linear("pool/mlp/fc1", f"{key}.mlp.fc1"),
        *linear("pool/mlp/fc2", f"{key}.mlp.fc2"),
    ]
