"""Python interface: `Prior` and `load_encoder`.

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

from i2i_prior.data.crops import center_crop
from i2i_prior.data.find_images import Image, open_image
from i2i_prior.errors import UserError
from i2i_prior.inference.encoder import Encoder, load_encoder
from i2i_prior.inference.generator import (
    Generator,
    condition_arrays,
    draw_noise,
    generate_for,
    repeat,
)
from i2i_prior.inference.interpolation import INTERPOLATIONS
from i2i_prior.inference.load import load_model
from i2i_prior.inference.sample_options import SampleOptions
from i2i_prior.models.functional import Flat
from i2i_prior.models.preprocess import PREPROCESSING, square
from i2i_prior.tasks.checks import check_timestep
from i2i_prior.tasks.registry import make_task

__all__ = ["Encoder", "Prior", "load_encoder", "open_image"]


class Prior:
    """Trained prior: variations, interpolations, predictions, samples."""

    def __init__(
        self,
        config: ConfigDict,  # of the run it came from
        parameters: Flat,  # name -> float32 array (EMA)
        step: int | None = None,  # optimizer updates, None where unknown
        truncate: bool = False,  # see `Generator`
    ):
        self.config, self.parameters, self.step = config, parameters, step
        self.task = make_task(config)
        self.layout = "run"  # of the file it came from, see `load.Loaded`
        self.notes: list[str] = []  # on assumptions made when it was loaded
        self._generator = Generator(self.task, truncate=truncate)
        self._predict = jax.jit(self._forward)

    @classmethod
    def load(
        cls, path: str | Path, step: int | str | None = None, **options: Any
    ) -> Prior:
        """Loads a run directory, an export, or a published checkpoint.

        Args:
          path: a run directory; a file or folder that `export` wrote; or
            weights of a known layout: Lumos (I2I, T2I, multi-scale), DiT,
            SiT, REPA, PixArt-alpha (official or diffusers), safetensors or
            torch files.
          step: checkpoint of a run, or "best"; the newest when None.
          **options: `heads`, `base_size`, `position_scale` (Lumos'
            lewei_scale) that shapes do not imply; `layout` to name it;
            `weights` "ema" or "raw"; `encoder` and `autoencoder`, files of
            the frozen networks around it; `precision`. See
            `load.load_model`, also for the errors.
        """
        loaded = load_model(path, step=step, **options)
        prior = cls(loaded.config, loaded.parameters, loaded.step)
        prior.layout, prior.notes = loaded.layout, loaded.notes
        return prior

    def embed(self, images: Sequence[Image]) -> jax.Array:
        """Embeds images, paths or uint8 HWC arrays: float32 (B, M0, C)."""
        return self._generator.embed(self.parameters, self.views(images))

    def views(self, images: Sequence[Image]) -> np.ndarray:
        """Central squares for the encoder, uint8 (B, V, V, 3)."""
        size, encoder = self.task.shapes.view_size, self.config.encoder
        if encoder.pixels != "family":
            return _center_crops(images, size)
        record = PREPROCESSING[encoder.family]
        return np.stack([square(open_image(i), record, size) for i in images])

    def _given(self, images: Sequence[Image]) -> dict[str, np.ndarray]:
        """Conditions that the model takes from images; UserError for none."""
        shapes, given = self.task.shapes, {}
        if shapes.conditioner is not None:
            given["view"] = self.views(images)
        if shapes.dit.concat_channels:
            given["source_image"] = _center_crops(images, shapes.image_size)
        if not given:
            raise UserError(
                "this model is not conditioned on images; draw from it with "
                "Prior.sample"
            )
        return given

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
          progress: called with the number of finished images.

        Raises:
          UserError: for an unusable image or a number out of range.
        """
        if not len(images) or num < 1 or batch_size < 1:
            raise UserError(
                "vary needs one image or more, num >= 1 and batch_size >= 1"
            )
        options, scale = SampleOptions.resolve(
            self.config, steps, guidance, solver
        )
        out = generate_for(
            self._generator,
            self.parameters,
            repeat(self._given(images), num),
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
        endpoint: bool = True,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Interpolation between two images, uint8 (frames, S, S, 3).

        All frames share one noise; frame 0 has the embedding of `start`,
        the last that of `end`.

        Args:
          start, end: paths or uint8 arrays.
          frames: at least 2.
          method: lerp (as Lumos) or slerp of the embeddings.
          endpoint: the last frame is `end`; Lumos' own interpolation
            stops a frame short of it.
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
        options, scale = SampleOptions.resolve(
            self.config, steps, guidance, solver
        )
        first, last = self.embed([start, end])
        weights = jnp.linspace(0, 1, frames, endpoint=endpoint)
        embeddings = INTERPOLATIONS[method](first, last, weights)
        noise = draw_noise(seed, range(1), self.task.latent_shape(1)[1:])
        noise = jnp.broadcast_to(noise, (frames, *noise.shape[1:]))
        return self._generator.images(
            self.parameters, embeddings, noise, scale, options
        )

    def predict(
        self,
        x_t: Any,
        timestep: Any,
        tokens: Any = None,
        mask: Any = None,
        pooled: Any = None,
        concat: Any = None,
        size: Any = None,
        aspect: Any = None,
    ) -> jax.Array:
        """Raw output of the network, float32 (B, H, W, C or 2C).

        Args:
          x_t: (B, H, W, C).
          timestep: (B,), in the convention of the weights: 0..1000 for those
            trained here (0..999 on DDPM paths, so Lumos, DiT, PixArt), 0..1
            for SiT (1 is data) and REPA (0 is data).
          tokens: embeddings (B, M0, C_e), before the conditioner.
          mask: bool (B, M), true where a condition token counts.
          pooled: class labels int (B,), or vectors, where the model takes
            them.
          concat: (B, H, W, K), likewise.
          size, aspect: (B, 2) in pixels and (B, 1), for multi-scale models.

        Raises:
          UserError: where a condition is missing or the model takes none.
        """
        doors = condition_arrays(
            mask=mask, pooled=pooled, concat=concat, size=size, aspect=aspect
        )
        x_t, timestep = jnp.asarray(x_t), jnp.asarray(timestep)
        tokens = self._generator.check(x_t, tokens, doors)
        check_timestep(timestep, len(x_t))
        return self._predict(self.parameters, x_t, timestep, tokens, doors)

    def _forward(
        self, parameters: Flat, x_t, timestep, tokens, doors
    ) -> jax.Array:
        model = self.task.functional.merge(parameters)
        if tokens is not None:
            tokens = model.conditioner(tokens)
        return model.dit(x_t, timestep, tokens=tokens, **doors)

    def sample(
        self,
        noise: Any,
        tokens: Any = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        lower_order_final: bool | None = None,
        null_mask: Any = None,
        seed: int = 0,
        **conditions: Any,
    ) -> jax.Array:
        """Samples latents from given noise, float32 (B, H, W, C).

        Args:
          noise: (B, H, W, C), standard normal.
          tokens: embeddings (B, M0, C_e).
          steps, guidance, solver: the run's own where None.
          lower_order_final: first-order last step; the run's own where None.
          null_mask: bool (B, M) of the null half, or its rule: "full", all
            null tokens count; "caption", only as many as the caption has, as
            in the official samplers of Lumos and PixArt-alpha and the
            default of their checkpoints.
          seed: of stochastic solvers only.
          **conditions: fields of `tasks.conditions.Conditions`: mask,
            pooled, concat, size, aspect, null_tokens.

        Raises:
          UserError: where a condition is missing or the model takes none.
        """
        return self._generator.sample(
            self.parameters,
            noise,
            tokens,
            steps=steps,
            guidance=guidance,
            solver=solver,
            lower_order_final=lower_order_final,
            null_mask=null_mask,
            seed=seed,
            **conditions,
        )

    def decode(self, latents: Any) -> np.ndarray:
        """Decodes latents (B, H, W, C) to images, uint8 (B, S, S, 3).

        Raises UserError where the model came without its autoencoder.
        """
        return self._generator.decode(self.parameters, jnp.asarray(latents))


def _center_crops(images: Sequence[Image], size: int) -> np.ndarray:
    return np.stack([center_crop(open_image(i), size) for i in images])
