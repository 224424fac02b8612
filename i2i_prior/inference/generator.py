"""Generation of images from embeddings and noise, a program a setting."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from i2i_prior.diffusion.samplers import sample
from i2i_prior.errors import UserError
from i2i_prior.inference.batches import padded_batches
from i2i_prior.inference.sample_options import SampleOptions
from i2i_prior.models.functional import Flat
from i2i_prior.models.precision import Array
from i2i_prior.parallel.constraints import on_mesh, replicate, shard_batch
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.checks import check_conditions, check_latents
from i2i_prior.tasks.conditions import Conditions

Given = dict[str, np.ndarray]  # conditions of samples by name, each (N, ...)
_SETTINGS = ("steps", "guidance", "solver", "lower_order_final")


class Generator:
    """Embeds views and generates images for one task.

    With the `mesh` that the parameters are sharded over, images are spread
    over it; all processes of a run call with the same arguments and get the
    same whole images. `truncate` cuts grey levels off, as ADM's sampler does,
    half a level darker; otherwise they are rounded.
    """

    def __init__(
        self, task: Task, mesh: Mesh | None = None, truncate: bool = False
    ):
        self.task, self.mesh, self.truncate = task, mesh, truncate

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return on_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

    @functools.partial(jax.jit, static_argnums=0)
    def embed(self, parameters: Flat, views: np.ndarray) -> Array:
        """Embeds views, uint8 (B, V, V, 3), to float32 (B, M0, C)."""
        with self._on_mesh():
            return self.task.embed(parameters, shard_batch(jnp.asarray(views)))

    @functools.partial(jax.jit, static_argnums=0)
    def condition(
        self, parameters: Flat, given: Given
    ) -> tuple[Array | None, Conditions]:
        """Encodes conditions, see `Task.condition`."""
        with self._on_mesh():
            placed = {n: shard_batch(jnp.asarray(a)) for n, a in given.items()}
            return self.task.condition(parameters, placed)

    @functools.partial(jax.jit, static_argnums=0)
    def embedding(self, parameters: Flat, views: np.ndarray) -> Array:
        """Mean of `embed` over the tokens, (B, C), replicated."""
        with self._on_mesh():
            tokens = self.task.embed(
                parameters, shard_batch(jnp.asarray(views))
            )
            return replicate(tokens.mean(1))

    def check(
        self, x: Array, tokens: Any, conditions: dict[str, Any]
    ) -> Array | None:
        """Tokens as an array, once all inputs fit the model.

        Raises UserError for a condition that is missing or not taken.
        """
        tokens = None if tokens is None else jnp.asarray(tokens)
        shapes = self.task.shapes
        check_latents(shapes.dit, x)
        check_conditions(
            shapes.dit, shapes.conditioner, len(x), tokens, conditions
        )
        return tokens

    def sample(
        self,
        parameters: Flat,
        noise: Any,
        tokens: Any = None,
        *,
        null_mask: Any = None,
        seed: int = 0,
        **given: Any,
    ) -> Array:
        """Samples latents of any task from checked inputs.

        Arguments as `Prior.sample`, after the parameters. UserError where a
        condition is missing or the model takes none.
        """
        mode = null_mask if isinstance(null_mask, str) else None
        if mode not in (None, "full", "caption"):
            raise UserError(
                f"null_mask {mode!r} is unknown; choose full or caption, or "
                "give a mask"
            )
        settings = {n: given.pop(n) for n in _SETTINGS if n in given}
        options, scale = SampleOptions.resolve(
            self.task.config, null_mask=mode, **settings
        )
        unknown = given.keys() - set(Conditions._fields)
        if unknown:
            raise UserError(
                f"sample knows no {', '.join(sorted(unknown))}; conditions "
                f"are {', '.join(Conditions._fields)}"
            )
        if mode is None:
            given["null_mask"] = null_mask
        arrays, noise = condition_arrays(**given), jnp.asarray(noise)
        return self.latents(
            parameters,
            self.check(noise, tokens, arrays),
            noise,
            scale,
            options,
            jax.random.key(seed),
            Conditions(**arrays),
        )

    @functools.partial(jax.jit, static_argnums=(0, 5))
    def latents(
        self,
        parameters: Flat,
        embeddings: Array | None,  # (B, M0, C)
        noise: Array,  # (B, H, W, C)
        guidance: float,  # scale, where options.guided
        options: SampleOptions,
        key: Array | None = None,  # of stochastic solvers
        conditions: Conditions | None = None,
    ) -> Array:
        """Runs the sampler: latents float32 (B, H, W, C)."""
        task = self.task
        with self._on_mesh():
            predict = task.predictor(
                parameters,
                embeddings,
                jnp.float32(guidance) if options.guided else 1.0,
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
                key=jax.random.key(0) if key is None else key,
                lower_order_final=options.lower_order_final,
                clip_x0=options.clip or None,
            )

    def images(self, parameters: Flat, *inputs: Any) -> np.ndarray:
        """Images uint8 (B, S, S, 3) of the `latents` of these arguments."""
        return self.decode(parameters, self.latents(parameters, *inputs))

    def decode(self, parameters: Flat, latents: Array) -> np.ndarray:
        """Decodes latents (B, H, W, C) to images, uint8 (B, S, S, 3)."""
        return np.asarray(self._decode(parameters, latents))

    @functools.partial(jax.jit, static_argnums=0)
    def _decode(self, parameters: Flat, latents: Array) -> Array:
        with self._on_mesh():
            images = self.task.decode(parameters, shard_batch(latents))
            level = jnp.floor if self.truncate else jnp.round
            images = jnp.clip(level(images * 127.5 + 127.5), 0, 255)
            return replicate(images.astype(jnp.uint8))


def draw_noise(
    seed: int, indices: np.ndarray | range, shape: tuple[int, ...]
) -> Array:
    """Noise (len(indices), *shape) of (seed, index): the same in any batch."""
    draw = jax.vmap(lambda key: jax.random.normal(key, shape))
    return draw(keys(seed, indices))


def keys(seed: int, indices: np.ndarray | range) -> Array:
    """Keys (len(indices),), each fold_in(key(seed), index)."""
    fold = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))
    return fold(jnp.asarray(indices))


def generate_for(
    generator: Generator,
    parameters: Flat,
    given: Given,
    *,
    guidance: float,
    options: SampleOptions,
    seed: int,
    batch_size: int,
    first: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Generates one image for each of N `given` conditions of `Task.condition`.

    uint8 (N, S, S, 3); image i draws from (seed, first + i). The last batch is
    padded; `progress` is called with the number of finished images.
    """
    shape = generator.task.latent_shape(1)[1:]
    out, done = [], 0
    total = len(next(iter(given.values())))
    for rows, count in padded_batches(total, min(batch_size, total)):
        some = {name: array[rows] for name, array in given.items()}
        embeddings, conditions = generator.condition(parameters, some)
        noise = draw_noise(seed, first + rows, shape)
        setting = guidance, options, keys(seed, first + rows)
        images = generator.images(
            parameters, embeddings, noise, *setting, conditions
        )
        out.append(images[:count])
        done += count
        if progress is not None:
            progress(done)
    return np.concatenate(out)


def repeat(given: Given, count: int) -> Given:
    """Repeats every example `count` times, one after the other."""
    return {name: np.repeat(a, count, axis=0) for name, a in given.items()}


def condition_arrays(**conditions: Any) -> dict[str, Array | None]:
    """Conditions as JAX arrays, masks as bool."""
    return {
        name: None
        if value is None
        else jnp.asarray(value, bool if name.endswith("mask") else None)
        for name, value in conditions.items()
    }
