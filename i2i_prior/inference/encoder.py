"""Image encoders of exports and of published files."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.data.crops import center_crop
from i2i_prior.data.find_images import open_image
from i2i_prior.errors import UserError, check_known
from i2i_prior.inference.batches import padded_batches
from i2i_prior.interop import encoders, native, text
from i2i_prior.interop.files.state_dicts import read_state_dict
from i2i_prior.models.functional import Flat, make_functional
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.preprocess import PREPROCESSING, preprocess
from i2i_prior.models.vit import Features, ViT, ViTConfig
from i2i_prior.tasks.resolve import resolve

# uint8 images (H, W, 3) -> float32 (B, S, S, 3)
Preprocess = Callable[[Sequence[np.ndarray]], np.ndarray]


class Encoder:
    """Image encoder from normalised pixels to `Features`.

    Its `parameters` may be replaced by arrays of the same shapes under other
    shardings (`parallel.sharding`).
    """

    def __init__(
        self,
        config: ViTConfig,
        parameters: Flat,
        preprocess: Preprocess,
        notes: Sequence[str] = (),  # on what its file did not state
        pixels: str = "family",  # of preprocess, as config.encoder.pixels
    ):
        functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
        self.config, self.preprocess, self.pixels = config, preprocess, pixels
        self.parameters = {k: jnp.asarray(v) for k, v in parameters.items()}
        self.notes = list(notes)
        self._forward = jax.jit(
            lambda parameters, pixels: functional.merge(parameters)(pixels)
        )

    def __call__(self, pixels: Any) -> Features:
        """Encodes normalised pixels (B, H, W, 3) to float32 `Features`.

        H and W are multiples of the patch; other sizes than
        `config.image_size` interpolate positions as the family does.
        """
        return self._forward(self.parameters, jnp.asarray(pixels))

    def embed(
        self, images: Sequence[str | Path | np.ndarray], batch_size: int = 64
    ) -> np.ndarray:
        """Embeds images as `Features.cls` over its L2 norm, as in Lumos.

        From paths, or uint8 (H, W, 3) arrays, to float32 (B, D). UserError for
        no images, or one that is unusable.
        """
        if not len(images) or batch_size < 1:
            raise UserError("embed needs an image or more and batch_size >= 1")
        found = []
        size = min(batch_size, len(images))
        for rows, count in padded_batches(len(images), size):
            chunk = [open_image(images[row]) for row in rows[:count]]
            pixels = self.preprocess(chunk)[rows - rows[0]]
            found.append(np.asarray(self(pixels).cls)[:count])
        vectors = np.concatenate(found)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, 1e-12)


def load_encoder(
    path: str | Path,
    heads: int | None = None,
    family: str | None = None,
    image_size: int | None = None,
    precision: str | None = None,
    part: str = "vision",
) -> Any:
    """Loads an encoder from a file of weights.

    Args:
      path: a file that `i2i-prior export` wrote; or weights of DINO, DINOv2,
        CLIP, SigLIP, MAE or I-JEPA under their authors' or Hugging Face's
        names, a file or a folder (`interop.files.read_state_dict`).
      heads, family: where the file does not imply them, see
        `interop.encoders.describe`.
      image_size: side S of preprocessed images, if not the published one.
      precision: a name of `models.precision.PRECISIONS`; if None the run's,
        float32 for published weights.
      part: "vision", or "text" for the text half of a file with both.

    Returns:
      an `Encoder`; an `interop.text.TextEncoder` for the part "text" and
      for a file with a text encoder alone.

    Raises:
      UserError: where the file is missing or holds no known encoder, or an
        argument does not fit it.
    """
    path = Path(path)
    if precision is not None:
        check_known("precision", precision, PRECISIONS)
    if part not in ("vision", "text"):
        raise UserError(f"part {part!r} is unknown; choose vision or text")
    if native.is_native(path):
        if heads or family or part == "text":
            raise UserError(
                f"{path} is an export of this project, which states its "
                "shape and holds no text encoder; leave heads, family and "
                "part out"
            )
        return _load_native(path, image_size, precision)
    state = read_state_dict(path)
    if part == "text" or (
        encoders.detect(state) is None and text.detect(state)
    ):
        return text.load_text_encoder(
            state, heads=heads, precision=precision or "float32"
        )
    config, parameters, notes = encoders.load(state, heads=heads, family=family)
    config = replace(config, precision=precision or "float32")
    make = _preprocessing(config, "family", image_size)
    return Encoder(config, parameters, make, notes)


def _load_native(
    path: Path, image_size: int | None, precision: str | None
) -> Encoder:
    parameters, run = native.read(path, "encoder/")
    if not parameters:
        raise UserError(f"{path} holds no encoder")
    config = resolve(run).encoder
    assert config is not None
    config = replace(config, precision=precision or config.precision)
    pixels = run.encoder.pixels
    make = _preprocessing(config, pixels, image_size or config.image_size)
    bare = {k.removeprefix("encoder/"): v for k, v in parameters.items()}
    return Encoder(config, bare, make, pixels=pixels)


def _preprocessing(
    config: ViTConfig, pixels: str, image_size: int | None
) -> Preprocess:
    """The family's preprocessing, or central squares in [-1, 1]."""
    record = PREPROCESSING[config.family]
    size = image_size or record.size or config.image_size
    if pixels == "family":
        return lambda images: preprocess(images, record, size)

    def squares(images: Sequence[np.ndarray]) -> np.ndarray:
        views = np.stack([center_crop(image, size) for image in images])
        return views.astype(np.float32) / 127.5 - 1

    return squares
