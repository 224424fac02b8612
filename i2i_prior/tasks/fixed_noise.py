"""Losses under noise that is the same for every run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.models.functional import Flat
from i2i_prior.models.precision import Array
from i2i_prior.parallel.constraints import (
    on_mesh,
    shard_batch,
    whole,
)
from i2i_prior.tasks.base import Task

# No run's seed: runs of other seeds are compared on the same noise.
_SEED = 0


def losses(
    task: Task,
    parameters: Flat,
    batch: dict[str, Array],
    numbers: Array,
    times: np.ndarray,
) -> tuple[Array, Array]:
    """The loss of every example at every time, nothing dropped or masked.

    The noise of an example is a function of its number, the place of the
    time and the shape of the latent alone.

    Args:
      task: of the run.
      parameters: all of them, by name.
      batch: see `Task.example_spec`.
      numbers: int32 (B,), which examples they are.
      times: (T,), path times.

    Returns:
      loss and mean squared error, float32 (B, T).
    """
    shape = task.shape_of(batch)
    key = jax.random.key(_SEED)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)

    def noise(place: Array | int) -> Array:
        def one(key: Array) -> Array:
            key = jax.random.fold_in(key, place)
            return jax.random.normal(key, shape[1:])

        return shard_batch(jax.vmap(one)(keys))

    model = task.merged(parameters)
    # The autoencoder's draw comes after the last time's.
    posterior = noise(len(times)) if task.draws_latents else None
    inputs = task.read(model, batch, posterior)
    doors = task.doors(model, inputs, batch, {})

    def at(place: Array) -> tuple[Array, Array]:
        time = jnp.asarray(times, jnp.float32)[place]
        draws = {"noise": noise(place), "t": jnp.full(shape[0], time)}
        loss, parts = task.denoising_loss(model, inputs.x0, doors, draws)
        return loss, parts["mse"]

    loss, mse = jax.lax.map(at, jnp.arange(len(times)))
    return whole(loss.T), whole(mse.T)


def compiled(task: Task, times: np.ndarray, mesh):
    """`losses` of (parameters, batch, numbers), jitted for a mesh."""

    @jax.jit
    def run(parameters: Flat, batch: dict[str, Array], numbers: Array):
        with on_mesh(mesh):
            batch = {name: shard_batch(a) for name, a in batch.items()}
            return losses(task, parameters, batch, numbers, times)

    return run
