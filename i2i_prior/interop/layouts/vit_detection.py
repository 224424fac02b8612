"""Detection of an image encoder's layout and config.

Depth, widths, patch, image size, registers, projection and the kind of MLP
follow from the shapes; config.json, where there is one, adds the heads, the
epsilon and the activation. Notes list the assumptions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2i_prior.errors import UserError, check_known
from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.vit import (
    LAYOUTS,
    VIT_EPSILON,
    Layout,
    detect,
    fits,
    keys_of,
)
from i2i_prior.models.encoder_families import FAMILIES, ViTConfig

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict

# Width -> heads of published models, where it is not width / 64.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
_SIGLIP_HEADS = {**_HEADS, 1536: 16}  # SigLIP 2 giant
# Default epsilon of transformers for a config.json without one.
_EPSILON = dict.fromkeys(("vit", "vit_mae", "ijepa"), VIT_EPSILON)
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_GEMMA_VOCABULARY = 256_000  # of SigLIP 2; SigLIP has 32,000 tokens
_SO400M = (14, 27, 384)  # patch, cells, pixels: 384 is no multiple of 14


@dataclass(frozen=True)
class Described:
    """Description of the encoder in a file."""

    layout: str  # a key of `LAYOUTS`
    prefix: str  # of every key
    config: ViTConfig  # float32
    notes: list[str]  # sentences on assumptions and on ignored arrays


def describe(
    state: StateDict,
    *,
    layout: str | None = None,
    heads: int | None = None,
    family: str | None = None,
) -> Described:
    """Describes the encoder in a file, from shapes and config.json.

    The layout is a key of `LAYOUTS`, detected if None. Without `heads` they are
    those of config.json, else the published ones. `family` is a key of
    `FAMILIES` instead of the layout's default: mae for MAE without its decoder,
    openclip for OpenCLIP without a config.json, siglip2 for its vision half
    alone, dino_hf, dinov2 or dinov2_hub for another interpolation of positions.
    UserError where the layout is unknown, or keys that it needs are missing.
    """
    name = layout or detect(state)
    if name not in LAYOUTS:
        raise UserError(
            f"{state.path} holds no image encoder of the layout "
            f"{layout or 'of any family known here'}; known are "
            f"{', '.join(LAYOUTS)}"
        )
    if family is not None:
        check_known("the encoder family", family, FAMILIES)
    spec, settings = LAYOUTS[name], _settings(state)
    notes = [f"{state.path} is read as {name}"]
    family = family or _family(state, spec, settings, notes)
    parts = _PartShapes(state, name)
    width, patch = _patch_embedding(state.path, name, parts["patch_embed"])
    tokens = parts["positions"][-2] - FAMILIES[family].cls
    cells = math.isqrt(max(tokens, 0))
    if cells < 1 or cells * cells != tokens:
        raise UserError(
            f"{state.path}: {tokens} positions are not a square grid; nothing "
            "was loaded"
        )
    swiglu = "blocks/mlp/gate_value" in parts
    hidden = parts["blocks/mlp/out" if swiglu else "blocks/mlp/fc2"][-1]
    projection = parts.get("projection", (0,))[0]
    layer, _, _ = str(spec.names["blocks/norm1"]).partition("{i}")
    config = ViTConfig(
        depth=mapping.depth(state.shapes, parts.prefix + layer),
        width=width,
        heads=heads or _heads(width, family, settings, notes),
        patch=patch,
        image_size=_image_size(patch, cells, family, settings, notes),
        family=family,
        mlp_width=0 if hidden == 4 * width else hidden,
        registers=parts.get("registers", (0, 0, 0))[-2],
        swiglu=swiglu,
        projection=parts.get("projection/kernel", (0, projection))[1],
        epsilon=_epsilon(spec, family, settings, notes),
    )
    if not fits(spec, config):
        raise UserError(
            f"{state.path} is in the layout {name}, which no encoder of the "
            f"family {family} fits; leave the family out or choose another"
        )
    ignored = [
        key
        for key in state.shapes
        if any(re.search(pattern, key) for pattern in spec.ignore)
    ]
    if ignored:
        more = ", ..." if len(ignored) > 3 else ""
        notes.append(
            f"{len(ignored)} weights that the encoder does not need were not "
            f"read ({', '.join(ignored[:3])}{more})"
        )
    return Described(name, parts.prefix, config, notes)


class _PartShapes(dict[str, tuple[int, ...]]):
    """Part of a layout -> shape of its weight in a file, in the first layer.

    A missing part raises UserError. `prefix` is that of every key.
    """

    def __init__(self, state: StateDict, layout: str):
        super().__init__()
        self._path, self._layout, spec = state.path, layout, LAYOUTS[layout]
        norm = f"{spec.names['norm']}.weight"
        found = (p for p in spec.prefixes if p + norm in state.shapes)
        self.prefix = next(found, spec.prefixes[0])
        self._keys = {}
        for part, keys in keys_of(spec, self.prefix).items():
            key = (keys if isinstance(keys, str) else keys[0]).format(i=0)
            weight = f"{key}.weight"
            self._keys[part] = key if part == "positions" else weight
            for name in (key, weight):
                if name in state.shapes:
                    self.setdefault(str(part), state.shapes[name])

    def __missing__(self, part: str) -> tuple[int, ...]:
        raise UserError(
            f"{self._path} is not the {self._layout} checkpoint it looks "
            f"like: its key {self._keys[part]} is missing; nothing was loaded"
        )


def _patch_embedding(
    path: Any, layout: str, shape: tuple[int, ...]
) -> tuple[int, int]:
    """Returns width and patch, the side in pixels."""
    if len(shape) == 2 and layout == "siglip":
        raise UserError(
            f"{path} is a NaFlex SigLIP 2, which takes images of any "
            "aspect as padded sequences; use a fixed-resolution SigLIP 2 "
            "(its name ends in the resolution)"
        )
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise UserError(
            f"{path}: patch embeddings of shape {shape} are not "
            "square patches of RGB pixels; nothing was loaded"
        )
    return shape[0], shape[2]


def _settings(state: StateDict) -> dict[str, Any]:
    config = dict(state.config or {})
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return config
    texts = config.get("text_config") or {}
    return {"text_vocabulary": texts.get("vocab_size", 0), **vision}


def _family(
    state: StateDict,
    spec: Layout,
    settings: Mapping[str, Any],
    notes: list[str],
) -> str:
    family = spec.family
    if family == "clip" and settings.get("hidden_act") == "gelu":
        family = "openclip"
    elif family == "clip" and not settings:
        notes.append(
            "OpenAI's QuickGELU is assumed as its activation; OpenCLIP's "
            "own models need the family openclip"
        )
    if family == "siglip":
        words = "text_model.embeddings.token_embedding.weight"
        count = settings.get("text_vocabulary", 0)
        count = max(count, state.shapes.get(words, (0,))[0])
        if count >= _GEMMA_VOCABULARY:
            family = "siglip2"
        elif not count:
            notes.append(
                "SigLIP is assumed; SigLIP 2, family siglip2, has the same "
                "network but other preprocessing"
            )
    if family in ("dino", "dino_hf") and "model_type" not in settings:
        notes.append(
            "DINO is assumed; MAE without its decoder has the same names and "
            "needs the family mae"
        )
    stated = settings.get("hidden_act", "")
    known = FAMILIES[family].activation
    if stated and _ACTIVATIONS.get(stated) != known:
        raise UserError(
            f"{state.path}: config.json states the activation {stated}, but "
            f"the family {family} has {known}; nothing was loaded"
        )
    return family


def _heads(
    width: int, family: str, settings: Mapping[str, Any], notes: list[str]
) -> int:
    if stated := settings.get("num_attention_heads"):
        return int(stated)
    siglip = family.startswith("siglip")
    heads = (_SIGLIP_HEADS if siglip else _HEADS).get(width, width // 64) or 1
    notes.append(
        f"{heads} attention heads are assumed, as in the published models of "
        f"width {width}"
    )
    return heads


def _image_size(
    patch: int,
    cells: int,
    family: str,
    settings: Mapping[str, Any],
    notes: list[str],
) -> int:
    stated = settings.get("image_size")
    if isinstance(stated, int) and stated // patch == cells:
        return stated
    if family.startswith("siglip") and (patch, cells) == _SO400M[:2]:
        notes.append("images of 384 pixels are assumed, as in so400m")
        return _SO400M[2]
    return patch * cells


def _epsilon(
    spec: Layout, family: str, settings: Mapping[str, Any], notes: list[str]
) -> float:
    """Returns the LayerNorm epsilon, 0 for the family's default."""
    own = FAMILIES[family].epsilon
    default = spec.epsilon or own
    if "model_type" in settings:
        default = _EPSILON.get(settings["model_type"], own)
    if spec.epsilon and not settings:
        notes.append(
            f"a LayerNorm epsilon of {default:g} is assumed, transformers' "
            "default; put its config.json into the same folder for another"
        )
    stated = float(settings.get("layer_norm_eps", default))
    return 0.0 if stated == own else stated
