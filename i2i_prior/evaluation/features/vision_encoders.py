"""Features of vision transformers: FD-DINOv2, CLIP-FID, CMMD, CLIP-score.

Weights are files, see `inference.encoder.load_encoder`. A protocol belongs to
one network of one shape, so the label depends on the weights: "FD-DINOv2" is
ViT-L/14's, "CLIP-FID" is ViT-B/32's, and CMMD's published numbers are over
ViT-L/14 at 336 pixels; labels of others have their shape.

    FD-DINOv2  Stein et al. 2023 (dgm-eval): uint8 resized to 224 x 224 by
               Pillow's bicubic filter, ImageNet statistics, CLS
    CLIP-FID   Kynkaanniemi et al. 2023, as in clean-fid: the shorter side to
               224, bicubic, central square, projected CLS
    CMMD       Jayasumana et al. 2024: central square, then bicubic to the
               network's size, projected CLS
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.inference.batches import padded_batches
from i2i_prior.inference.encoder import Encoder, load_encoder
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.models.functional import make_functional
from i2i_prior.models.preprocess import (
    CLIP,
    IMAGENET,
    Preprocessing,
    normalise,
    square,
)
from i2i_prior.models.vit import ViT, ViTConfig

_CODE = 1  # goes up when any feature changes
# By width and depth.
_LETTERS = {
    (384, 12): "S",
    (768, 12): "B",
    (1024, 24): "L",
    (1280, 32): "H",
    (1536, 40): "g",
}
_DINOV2 = Preprocessing(IMAGENET, "bicubic", 224)
_CLIP_FID = Preprocessing(CLIP, "bicubic", 224, 1.0, torchvision=True)


def load_dinov2(path: str | Path) -> Extractor:
    """Extractor of DINOv2's CLS token after the last norm, tap "cls".

    The weights are Meta's or transformers' file or folder; UserError where
    they are none of DINOv2.
    """
    encoder = _encoder(path, ("dinov2",), "DINOv2")
    model = model_name(encoder.config)
    plain = model == "ViT-L/14"
    label = "FD-DINOv2" if plain else f"FD-DINOv2-{model}"
    return _extractor("dinov2", label, "cls", encoder, path, _DINOV2)


def load_clip(path: str | Path) -> Extractor:
    """Extractor of CLIP's projected CLS token, not normalised, tap "image".

    The weights are OpenAI's or transformers', with the projection, with or
    without the text half; UserError where they are none of CLIP.
    """
    encoder = _encoder(path, ("clip", "openclip"), "CLIP")
    config = encoder.config
    if not config.projection:
        raise UserError(
            f"{path} lacks CLIP's projection, so its features compare with no "
            "published ones; take the whole model's file."
        )
    model = model_name(config)
    own = "CLIP" if config.family == "clip" else "OpenCLIP"
    if f"{own}-{model}" == "CLIP-ViT-B/32":
        return _extractor("clip", "CLIP-FID", "image", encoder, path, _CLIP_FID)
    record = Preprocessing(CLIP, "bicubic", config.image_size)
    label = f"FD-{own}-{model}"
    return _extractor("clip", label, "image", encoder, path, record, True)


def model_name(config: ViTConfig) -> str:
    """Name such as "ViT-L/14", with "@336" for sizes other than 224.

    DINOv2 has no such suffix, since it takes all sizes. A shape without a
    published letter is named by its width and depth.
    """
    shape = config.width, config.depth
    name = f"ViT-{_LETTERS.get(shape) or '{}x{}'.format(*shape)}/{config.patch}"
    if config.registers:
        name += f"+{config.registers}registers"
    free = config.family == "dinov2" or config.image_size == 224
    return name if free else f"{name}@{config.image_size}"


def clip_score(images: np.ndarray, texts: np.ndarray, scale: float) -> float:
    """Mean of max(cos, 0) between images and their captions, times `scale`.

    Hessel et al., "CLIPScore", EMNLP 2021, with `scale` 2.5; others take 1 or
    100, and other networks, so both are part of the result's name. Images
    (N, P) are the tap "image" of `load_clip`, texts (N, P) of `embed_captions`,
    row for row; UserError where they are not of one shape, or not finite.
    """
    images, texts = np.asarray(images, float), np.asarray(texts, float)
    if images.shape != texts.shape or images.ndim != 2 or not len(images):
        raise UserError(
            f"a CLIP-score needs a caption for each image, from the same "
            f"network, not {images.shape} and {texts.shape}."
        )
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    cosines = (images * texts).sum(1) / np.maximum(lengths, 1e-12)
    if not np.isfinite(cosines).all():
        raise UserError("CLIP's embeddings hold NaN; look at its weights.")
    return float(scale * np.maximum(cosines, 0).mean())


def embed_captions(
    path: str | Path, captions: Sequence[str], batch_size: int = 64
) -> np.ndarray:
    """Embeds texts by CLIP's text half, projected, float32 (N, P).

    Long texts are cut at the network's length. UserError where the weights
    have no text half, or there is no tokenizer in their folder.
    """
    encoder = load_encoder(path, part="text")
    length = getattr(encoder.config, "length", None)
    if length is None:
        raise UserError(f"{path} holds no text half of CLIP.")
    found = []
    for rows, count in padded_batches(len(captions), batch_size):
        ids, _ = encoder.tokenize([captions[row] for row in rows], length)
        found.append(np.asarray(encoder(ids).pooled)[:count])
    return np.concatenate(found)


def _encoder(path: str | Path, families: tuple[str, ...], name: str) -> Encoder:
    encoder = load_encoder(path)
    family = getattr(getattr(encoder, "config", None), "family", None)
    if family not in families:
        raise UserError(
            f"{path} holds no image encoder of {name} but of "
            f"{family or 'text'}; give the weights of {name}."
        )
    return encoder


def _extractor(
    name: str,
    label: str,
    tap: str,
    encoder: Encoder,
    path: str | Path,
    record: Preprocessing,
    cut: bool = False,
) -> Extractor:
    """Extractor of an encoder; `cut` takes the central square first."""
    config = encoder.config
    functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
    family = "clip" if record.statistics == CLIP else "dinov2"

    def prepare(images: np.ndarray) -> np.ndarray:
        images = _central(images) if cut else images
        return np.stack([square(i, record, record.size) for i in images])

    def apply(parameters: Any, images: Any) -> dict[str, Any]:
        pixels = normalise(images.astype(jnp.float32) / 255, family)
        found = functional.merge(parameters)(pixels)
        return {tap: found.cls if tap == "cls" else found.pooled}

    return Extractor(
        name=name,
        label=label,
        taps={tap: config.projection or config.width},
        identity={
            "network": name,
            "model": model_name(config),
            "weights_sha256": hash_of(path),
            "size": record.size,
            "resize": "pil_bicubic, uint8",
            "crop": "central square" if cut or record.crop_share else "none",
            "code": _CODE,
        },
        prepare=prepare,
        apply=apply,
        parameters=encoder.parameters,
    )


def _central(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]
