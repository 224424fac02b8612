"""From embeddings and noise to images: one compiled program a setting."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from i2i_prior.diffusion.samplers import sample
from i2i_prior.models.functional import Flat
from i2i_prior.models.precision import Array
from i2i_prior.parallel.constraints import (
    on_mesh,
    shard_batch,
    whole,
)
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.conditions import Conditions


@dataclass(frozen=True)
class SampleOptions:
    """How to sample; hashable, so that each setting compiles once.

    Attributes:
      solver: a name of `diffusion.samplers.SOLVERS`.
      steps: solver steps.
      guided: whether the null half runs at all.
      interval: path times between which guidance acts.
      lower_order_final: first-order last step of multistep solvers.
      clip: every estimate of x0 is held in [-clip, clip]; 0 for no bound.
      null_mask: see `tasks.conditions.with_null`.
    """

    solver: str = "dpmpp_2m"
    steps: int = 20
    guided: bool = True
    interval: tuple[float, float] = (0.0, 1.0)
    lower_order_final: bool = True
    clip: float = 0.0
    null_mask: str = "full"

    @classmethod
    def from_config(cls, section: Any) -> SampleOptions:
        """From the `sample` section of a config."""
        return cls(
            solver=section.solver,
            steps=section.steps,
            guided=section.guidance != 1,
            interval=(section.guidance_low, section.guidance_high),
            lower_order_final=section.lower_order_final,
            clip=section.clip,
            null_mask=section.null_mask,
        )


class Generator:
    """Embeds views and generates images for one task.

    Args:
      task: what the parameters mean.
      mesh: of the parameters, where they are sharded: images are then
        spread over it. All processes of a run call alike, with the same
        arguments, and get the same whole images.
      truncate: grey levels are cut off, as ADM's sampler does, half a level
        darker; otherwise they are rounded.
    """

    def __init__(
        self, task: Task, mesh: Mesh | None = None, truncate: bool = False
    ):
        self.task, self.mesh = task, mesh
        self.truncate = truncate

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        mesh = self.mesh
        return contextlib.nullcontext() if mesh is None else on_mesh(mesh)

    @functools.partial(jax.jit, static_argnums=0)
    def embed(self, parameters: Flat, views: np.ndarray) -> Array:
        """views uint8 (B, V, V, 3) -> embeddings float32 (B, M0, C)."""
        with self._on_mesh():
            return self.task.embed(parameters, shard_batch(jnp.asarray(views)))

    @functools.partial(jax.jit, static_argnums=0)
    def embedding(self, parameters: Flat, views: np.ndarray) -> Array:
        """As `embed`, the mean over the tokens: (B, C), whole everywhere."""
        with self._on_mesh():
            tokens = self.task.embed(
                parameters, shard_batch(jnp.asarray(views))
            )
            return whole(tokens.mean(1))

    def latents(
        self,
        parameters: Flat,
        embeddings: Array | None,
        noise: Array,
        guidance: float,
        options: SampleOptions,
        key: Array | None = None,
        conditions: Conditions | None = None,
    ) -> Array:
        """Runs the sampler.

        Args:
          parameters: all of them, by name.
          embeddings: (B, M0, C).
          noise: (B, H, W, C).
          guidance: scale; only used where options.guided.
          options: the compiled setting.
          key: for stochastic solvers.
          conditions: what the model wants beside embeddings.

        Returns:
          latents float32 (B, H, W, C).
        """
        key = jax.random.key(0) if key is None else key
        return self._sample(
            parameters,
            embeddings,
            noise,
            jnp.float32(guidance),
            key,
            conditions or Conditions(),
            options,
        )

    @functools.partial(jax.jit, static_argnums=(0, 7))
    def _sample(
        self, parameters, embeddings, noise, guidance, key, conditions, options
    ):
        task = self.task
        with self._on_mesh():
            predict = task.predictor(
                parameters,
                embeddings,
                guidance if options.guided else 1.0,
                options.interval,
                conditions,
                options.null_mask,
            )
            return sample(
                predict,
                shard_batch(noise),
                task.path,
                prediction=task.config.diffusion.prediction,
                solver=options.solver,
                steps=options.steps,
                key=key,
                lower_order_final=options.lower_order_final,
                clip_x0=options.clip or None,
            )

    def images(
        self,
        parameters: Flat,
        embeddings: Array,
        noise: Array,
        guidance: float,
        options: SampleOptions,
        key: Array | None = None,
    ) -> np.ndarray:
        """As `latents`, decoded: uint8 (B, S, S, 3)."""
        latents = self.latents(
            parameters, embeddings, noise, guidance, options, key
        )
        return self.decode(parameters, latents)

    def decode(self, parameters: Flat, latents: Array) -> np.ndarray:
        """latents (B, H, W, C) -> uint8 (B, S, S, 3)."""
        return np.asarray(self._decode(parameters, latents))

    @functools.partial(jax.jit, static_argnums=0)
    def _decode(self, parameters: Flat, latents: Array) -> Array:
        with self._on_mesh():
            images = self.task.decode(parameters, shard_batch(latents))
            level = jnp.floor if self.truncate else jnp.round
            images = jnp.clip(level(images * 127.5 + 127.5), 0, 255)
            return whole(images.astype(jnp.uint8))


def draw_noise(
    seed: int, indices: np.ndarray | range, shape: tuple[int, ...]
) -> Array:
    """Noise that depends on (seed, index) only: (len(indices), *shape).

    So sample number i is the same in any batch, on any mesh.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(
        keys(seed, indices)
    )


def keys(seed: int, indices: np.ndarray | range) -> Array:
    """A key for each index: fold_in(key(seed), index), (len(indices),)."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
        jnp.asarray(indices)
    )


def generate_for(
    generator: Generator,
    parameters: Flat,
    views: np.ndarray,
    *,
    guidance: float,
    options: SampleOptions,
    seed: int,
    batch_size: int,
    first: int = 0,
    progress: Any = None,
) -> np.ndarray:
    """One image for each view, in fixed-size batches (one compilation).

    Args:
      generator, parameters: the model.
      views: uint8 (N, V, V, 3).
      guidance, options: see `Generator.latents`.
      seed: the image of view i draws from (seed, first + i).
      batch_size: images at once; the last batch is padded.
      first: number of the first image.
      progress: called with the number of finished images.

    Returns:
      uint8 (N, S, S, 3).
    """
    shape = generator.task.latent_shape(1)[1:]
    size = min(batch_size, len(views))
    out = []
    for start in range(0, len(views), size):
        # The last batch repeats its last view, to keep the shape.
        rows = np.arange(start, start + size)
        inside = np.minimum(rows, len(views) - 1)
        embeddings = generator.embed(parameters, views[inside])
        out.append(
            generator.images(
                parameters,
                embeddings,
                draw_noise(seed, first + rows, shape),
                guidance,
                options,
                keys(seed, first + rows),
            )
        )
        if progress is not None:
            progress(min(start + size, len(views)))
    return np.concatenate(out)[: len(views)]
