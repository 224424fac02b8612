"""Validation loss: fixed held-out images under fixed noise.

A training loss wanders with its draws by more than two model sizes differ.
Here every run of a sweep sees the same images, the same noise and the same
times, so that differences are the models' own. Raw and EMA weights are both
measured: after few steps the EMA lags, after many it leads.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.run_dir import read_json
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.data.cached import CachedPipeline, CachedSource
from i2i_prior.diffusion.paths import Path
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.evaluation import validation_losses
from i2i_prior.evaluation.sampling import held_out_examples
from i2i_prior.evaluation.validation_losses import FOLDER, KINDS, Losses
from i2i_prior.io.progress import Progress
from i2i_prior.models.functional import Flat
from i2i_prior.models.precision import Array
from i2i_prior.parallel.constraints import on_mesh, replicate, shard_batch
from i2i_prior.tasks.base import Task
from i2i_prior.training.evaluators.base import (
    Evaluator,
    EvaluatorContext,
    Images,
    Scalars,
)
from i2i_prior.training.input_pipeline import embedding_name, open_validation

Batch = dict[str, np.ndarray]

# No run's seed: runs of other seeds are compared on the same noise.
_SEED = 0


class ValidationLoss(Evaluator):
    """Writes validation/STEP.json and .npz every `validation.every` steps."""

    name = "validation_loss"
    files = (f"{FOLDER}/*.json", f"{FOLDER}/*.npz")

    def __init__(self, context: EvaluatorContext) -> None:
        config, path = context.config, context.task.path
        section, diffusion = config.validation, config.diffusion
        super().__init__(context, section.every)
        self._source: Any = open_validation(config)  # None if never run
        self._times = stratified_times(section.times, path)
        drawn = diffusion.time, diffusion.time_mean, diffusion.time_std
        self._shares = stratum_shares(section.times, path, *drawn)
        self._losses = compile_losses(context.task, self._times, context.mesh)

    def run(self, state: TrainState, step: int) -> tuple[Scalars, Images]:
        config = self.context.config
        weights = {
            "ema": state.ema_parameters(),
            "raw": {**state.params, **state.frozen},
        }
        progress = Progress(
            config.validation.examples,
            description="validating",
            write=runtime.is_primary(),
        )
        rows: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        first = 0
        for batch, count in self._batches:
            self.context.check()
            size = len(next(iter(batch.values())))
            numbers = np.arange(first, first + size, dtype=np.int32)
            for kind, parameters in weights.items():
                pair = self._losses(parameters, batch, numbers)
                rows[kind].append([np.asarray(a)[:count] for a in pair])
            first += count
            progress.update(first)
        progress.close()
        if not runtime.is_primary():
            return {}, {}
        tables = {
            kind: Losses(*map(np.concatenate, zip(*found, strict=True)))
            for kind, found in rows.items()
        }
        about = {
            "source": config.validation.source or config.data.held_out,
            "fingerprint": self._source.fingerprint(),
            "examples": first,
        }
        scalars = validation_losses.write(
            self.context.workdir, step, tables, self._times, self._shares, about
        )
        return scalars, {}

    def stored(self, step: int) -> Scalars:
        return read_json(self.path(step))["losses"]

    def path(self, step: int) -> FilePath:
        return validation_losses.document(self.context.workdir, step)

    @functools.cached_property
    def _batches(self) -> list[tuple[Batch, int]]:
        """Examples, decoded once a run: batches of one size, and how many of
        the rows of each count (the last batch is filled up)."""
        section, devices = self.context.config.validation, jax.device_count()
        size = min(section.batch_size, section.examples)
        size = -(-size // devices) * devices
        return [
            ({name: _fill(a, size) for name, a in batch.items()}, count)
            for batch, count in self._examples(section.examples, size)
        ]

    def _examples(self, count: int, size: int) -> Iterator[tuple[Batch, int]]:
        config, source = self.context.config, self._source
        if isinstance(source, CachedSource):
            yield from _cached_examples(config, source, count, size)
            return
        for batch in held_out_examples(config, source, count, size):
            examples = len(batch["image"])
            if config.model.size_conditions:
                side = np.float32(config.data.image_size)
                batch["size"] = np.full((examples, 2), side)
                batch["aspect"] = np.ones((examples, 1), np.float32)
            yield batch, examples


def compile_losses(task: Task, times: np.ndarray, mesh: Mesh) -> Callable:
    """Jits `losses` as a function of (parameters, batch, numbers)."""

    @jax.jit
    def run(parameters: Flat, batch: dict[str, Array], numbers: Array):
        with on_mesh(mesh):
            batch = {name: shard_batch(a) for name, a in batch.items()}
            return losses(task, parameters, batch, numbers, times)

    return run


def losses(
    task: Task,
    parameters: Flat,
    batch: dict[str, Array],
    numbers: Array,
    times: np.ndarray,
) -> tuple[Array, Array]:
    """Loss and mean squared error of each example at each time, float32 (B, T).

    No condition is dropped or masked. The noise of an example is a function of
    its number, the index of the time and the shape of the latent alone. The
    batch is one of `Task.example_spec`, `numbers`, int32 (B,), are the
    examples' numbers, and `times`, (T,), are path times.
    """
    shape = task.shape_of(batch)
    key = jax.random.key(_SEED)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)

    def noise(index: Array | int) -> Array:
        def one(key: Array) -> Array:
            key = jax.random.fold_in(key, index)
            return jax.random.normal(key, shape[1:])

        return shard_batch(jax.vmap(one)(keys))

    model = task.merged(parameters)
    # The autoencoder's draw comes after the last time's.
    posterior = noise(len(times)) if task.draws_latents else None
    inputs = task.read(model, batch, posterior)
    doors = task.doors(model, inputs, batch, {})

    def at(index: Array) -> tuple[Array, Array]:
        time = jnp.asarray(times, jnp.float32)[index]
        draws = {"noise": noise(index), "t": jnp.full(shape[0], time)}
        loss, parts = task.denoising_loss(model, inputs.x0, doors, draws)
        return loss, parts["mse"]

    loss, mse = jax.lax.map(at, jnp.arange(len(times)))
    return replicate(loss.T), replicate(mse.T)


def stratified_times(count: int, path: Path) -> np.ndarray:
    """Middles of `count` equal strata of [0, 1], float64 (count,).

    On ddpm paths the nearest table entries, on flow held above t_min.
    """
    middles = (np.arange(count) + 0.5) / count
    if path.is_discrete:
        steps = path.num_timesteps
        return np.clip(np.round(middles * steps), 1, steps) / steps
    return np.clip(middles, path.t_min, path.t_max)


def stratum_shares(
    count: int, path: Path, distribution: str, mean: float, std: float
) -> np.ndarray:
    """Probabilities that `objectives.draw_times` falls into each of `count`
    equal strata of [0, 1]: float64 (count,), sums to 1. Arguments as there."""
    edges = np.linspace(0.0, 1.0, count + 1)
    if not path.is_discrete:
        edges = edges / (path.shift - (path.shift - 1.0) * edges)
    if distribution == "logit_normal":
        with np.errstate(divide="ignore"):
            normal = (np.log(edges) - np.log1p(-edges) - mean) / std
        edges = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in normal])
    return np.diff(edges)


def _cached_examples(
    config: ConfigDict, source: CachedSource, count: int, size: int
) -> Iterator[tuple[Batch, int]]:
    if len(source) < count:
        raise UserError(
            f"{config.validation.source} holds {len(source)} examples, but "
            f"validation.examples is {count}; ask for fewer"
        )
    pipeline = CachedPipeline(
        source, embedding_name(source.manifest, config), size, threads=1
    )
    for step, start in enumerate(range(0, count, size)):
        batch = pipeline.batch(step)
        kept = {name: batch[name] for name in ("latent", "embedding")}
        yield kept, min(size, count - start)


def _fill(array: np.ndarray, size: int) -> np.ndarray:
    """(n, ...) -> (size, ...), the last row repeated."""
    return array[np.minimum(np.arange(size), len(array) - 1)]
