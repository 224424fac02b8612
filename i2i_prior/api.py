"""The same things in a notebook: `Prior` and `load_encoder`.

Arrays are NHWC; images are uint8 in, uint8 out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from i2i_prior.data.images import center_crop, decode
from i2i_prior.data.sources import Record
from i2i_prior.encoder import Encoder, load_encoder
from i2i_prior.errors import UserError
from i2i_prior.evaluation.generate import (
    Generator,
    SampleOptions,
    draw_noise,
    generate_for,
)
from i2i_prior.interop import native
from i2i_prior.interpolation import INTERPOLATIONS
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.i2i import I2ITask

__all__ = ["Encoder", "Prior", "load_encoder", "open_image"]

Image = str | Path | np.ndarray


class Prior:
    """A trained prior: vary, interpolate, predict, sample.

    Attributes:
      config: of the run it came from.
      parameters: name -> float32 array (EMA).
      step: optimizer updates it has seen, None where unknown.
    """

    def __init__(
        self, config: ConfigDict, parameters: Flat, step: int | None = None
    ):
        self.config = config
        self.parameters = parameters
        self.step = step
        self.task = I2ITask(config)
        self._generator = Generator(self.task)

    @classmethod
    def load(cls, path: str | Path, step: int | None = None) -> Prior:
        """From a run directory or an exported safetensors file.

        Args:
          path: either.
          step: which checkpoint of a run; the newest when None.

        Raises:
          UserError: where there is neither.
        """
        path = Path(path)
        if path.is_file():
            parameters, config = native.read(path)
            prior = cls(config, {})
            prior._accept(parameters, path)
            return prior
        from i2i_prior.checkpoint import load_ema
        from i2i_prior.workdir import load_config

        prior = cls(load_config(path), {})
        shapes = prior.task.functional.shapes()
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = {
            name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device)
            for name, s in shapes.items()
        }
        prior.parameters, prior.step = load_ema(path, abstract, step)
        return prior

    def _accept(self, parameters: Flat, path: Path) -> None:
        shapes = self.task.functional.shapes()
        wrong = [
            name
            for name, shape in shapes.items()
            if name not in parameters or parameters[name].shape != shape.shape
        ]
        wrong += [name for name in parameters if name not in shapes]
        if wrong:
            raise UserError(
                f"{path} does not hold this model: {len(wrong)} arrays are "
                f"missing, misshapen or unknown ({', '.join(wrong[:3])})"
            )
        self.parameters = jax.tree.map(jnp.asarray, parameters)

    def embed(self, images: Sequence[Image]) -> jax.Array:
        """Images (paths or uint8 HWC arrays) -> float32 (B, M0, C)."""
        views = self.views(images)
        return self._generator.embed(self.parameters, views)

    def views(self, images: Sequence[Image]) -> np.ndarray:
        """Central squares as the encoder sees them, uint8 (B, V, V, 3)."""
        size = self.config.encoder.image_size
        return np.stack([center_crop(open_image(i), size) for i in images])

    def vary(
        self,
        images: Sequence[Image],
        num: int = 8,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        seed: int = 0,
        batch_size: int = 64,
        progress: Any = None,
    ) -> np.ndarray:
        """Variations of images, uint8 (len(images), num, S, S, 3).

        Args:
          images: paths, or uint8 (H, W, 3) arrays.
          num: variations of each; variation k of image i draws from
            (seed, i * num + k).
          steps, guidance, solver: the run's own where None.
          batch_size: images generated at once.
          progress: called with the number of finished images.

        Raises:
          UserError: for an unusable image or a number out of range.
        """
        if not len(images) or num < 1 or batch_size < 1:
            raise UserError(
                "vary needs one image or more, num >= 1 and batch_size >= 1"
            )
        options, scale = self._options(steps, guidance, solver)
        views = np.repeat(self.views(images), num, axis=0)
        out = generate_for(
            self._generator,
            self.parameters,
            views,
            guidance=scale,
            options=options,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        return out.reshape(len(images), num, *out.shape[1:])

    def interpolate(
        self,
        start: Image,
        end: Image,
        frames: int = 12,
        *,
        method: str = "lerp",
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """A walk between two images, uint8 (frames, S, S, 3).

        All frames share one noise; frame 0 has the embedding of `start`,
        the last that of `end`.

        Args:
          start, end: paths or uint8 arrays.
          frames: at least 2.
          method: lerp (as Lumos) or slerp of the embeddings.
          steps, guidance, solver: the run's own where None.
          seed: of the shared noise.
        """
        if frames < 2:
            raise UserError("an interpolation needs 2 frames or more")
        if method not in INTERPOLATIONS:
            raise UserError(
                f"interpolation {method!r} is unknown; choose "
                f"{' or '.join(INTERPOLATIONS)}"
            )
        options, scale = self._options(steps, guidance, solver)
        first, last = self.embed([start, end])
        weights = jnp.linspace(0, 1, frames)
        embeddings = INTERPOLATIONS[method](first, last, weights)
        noise = draw_noise(seed, range(1), self.task.latent_shape(1)[1:])
        noise = jnp.broadcast_to(noise, (frames, *noise.shape[1:]))
        return self._generator.images(
            self.parameters, embeddings, noise, scale, options
        )

    def predict(
        self,
        x_t: jax.Array,
        timestep: jax.Array,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        pooled: jax.Array | None = None,
        concat: jax.Array | None = None,
    ) -> jax.Array:
        """The raw network output, float32 (B, H, W, C or 2C).

        Args:
          x_t: (B, H, W, C).
          timestep: (B,), 0..1000 (0..999 on DDPM paths).
          tokens: embeddings (B, M0, C_e), before the conditioner.
          mask: bool (B, M), true where a condition token counts.
          pooled, concat: the other doors, where the model has them.
        """
        model = self.task.functional.merge(self.parameters)
        return model.dit(
            jnp.asarray(x_t),
            jnp.asarray(timestep),
            tokens=model.conditioner(jnp.asarray(tokens)),
            mask=mask,
            pooled=pooled,
            concat=concat,
        )

    def sample(
        self,
        noise: jax.Array,
        tokens: jax.Array,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        lower_order_final: bool = True,
        seed: int = 0,
    ) -> jax.Array:
        """Latents from given noise, float32 (B, H, W, C).

        Args:
          noise: (B, H, W, C), standard normal.
          tokens: embeddings (B, M0, C_e).
          steps, guidance, solver: the run's own where None.
          lower_order_final: first-order last step.
          seed: of stochastic solvers only.
        """
        options, scale = self._options(
            steps, guidance, solver, lower_order_final
        )
        return self._generator.latents(
            self.parameters,
            jnp.asarray(tokens),
            jnp.asarray(noise),
            scale,
            options,
            jax.random.key(seed),
        )

    def _options(
        self, steps, guidance, solver, lower_order_final=None
    ) -> tuple[SampleOptions, float]:
        section = self.config.sample
        scale = section.guidance if guidance is None else guidance
        if lower_order_final is None:
            lower_order_final = section.lower_order_final
        options = SampleOptions(
            solver=section.solver if solver is None else solver,
            steps=section.steps if steps is None else steps,
            guided=scale != 1,
            interval=(section.guidance_low, section.guidance_high),
            lower_order_final=lower_order_final,
            clip=section.clip,
        )
        return options, float(scale)


def open_image(image: Image) -> np.ndarray:
    """A path or a uint8 array -> uint8 (H, W, 3).

    Raises:
      UserError: where it cannot be read, or is no uint8 RGB array.
    """
    from i2i_prior.data.images import BrokenImage

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"an image array is uint8 (H, W, 3), not {image.dtype} "
                f"{image.shape}"
            )
        return image
    try:
        with open(image, "rb") as file:
            return decode(Record(str(image), file.read()))
    except OSError as error:
        raise UserError(
            f"cannot read the image {image} ({error.strerror})"
        ) from error
    except BrokenImage as error:
        raise UserError(f"the image {image} is unusable: {error}") from error
