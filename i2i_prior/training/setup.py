"""Setup of a config: network, optimizer, mesh and the compiled step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.data.pipeline import DataOptions
from i2i_prior.interop.load_frozen import load_frozen
from i2i_prior.parallel.explain import explain
from i2i_prior.parallel.global_arrays import Rows, to_global
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.parallel.sharding import check
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.registry import make_task
from i2i_prior.tasks.resolve import resolve
from i2i_prior.training.optimizer import make_optimizer, make_schedule
from i2i_prior.training.train_step import (
    compile_step,
    init_state,
    make_train_step,
    state_shardings,
)


@dataclass
class Program:
    """Task, optimizer, mesh and the compiled step of a config."""

    task: Task
    mesh: Mesh
    abstract: TrainState  # of shapes that carry their shardings
    initialise: Any  # () -> new sharded TrainState
    step: Any  # (state, batch) -> (state, metrics), jitted, state donated
    schedule: Any  # update (from 0) -> learning rate


def build(config: ConfigDict, mesh: Mesh) -> Program:
    """Builds the program of a config without allocating anything; UserError
    if the mesh would leave the model unsharded."""
    task = make_task(config)
    ratio = task.shapes.dit.ratio
    transform = make_optimizer(config.optim, config.train.steps, ratio)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))

    def init(key: jax.Array) -> TrainState:
        return init_state(task, transform, key, config.train.ema_dtype)

    shapes = jax.eval_shape(init, init_key)
    check(shapes.params, mesh)
    shardings = state_shardings(shapes, transform, mesh)
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=sharding
        ),
        shapes,
        shardings,
    )
    step = make_train_step(
        task,
        transform,
        run_key=run_key,
        ema_limit=config.train.ema_decay,
        accumulate=config.train.accumulate,
    )

    def initialise() -> TrainState:
        state = jax.jit(init, out_shardings=shardings)(init_key)
        frozen = load_frozen(state.frozen, config)
        return dataclasses.replace(state, frozen=frozen)

    return Program(
        task=task,
        mesh=mesh,
        abstract=abstract,
        initialise=initialise,
        step=compile_step(step, shardings, mesh),
        schedule=make_schedule(config.optim, config.train.steps),
    )


def data_options(config: ConfigDict) -> DataOptions:
    """Options of the pipeline, by the names of the data section."""
    names = DataOptions.names() & set(config.data)
    options = {name: config.data[name] for name in names}
    shapes = resolve(config)
    options |= {
        "seed": config.seed,
        "view_size": shapes.view_size if shapes.conditioner else 0,
        "labels": shapes.dit.classes > 0,
    }
    return DataOptions.of(**options)


def explain_sharding(config: ConfigDict) -> str:
    """Formats each array of the state: name, shape, specs, bytes a device."""
    mesh = make_mesh(**config.mesh)
    return explain(build(config, mesh).abstract)


def to_device(
    batch: dict[str, np.ndarray], sharding: Any, rows: Rows | None = None
) -> Any:
    """Puts this process's rows into global arrays, without index and broken.

    `rows` of the global batch are those that it holds; None for all.
    """
    arrays = {n: a for n, a in batch.items() if n not in ("index", "broken")}
    numbers = tuple(range(len(batch["index"])))
    rows = rows or Rows(len(numbers), numbers, numbers)
    return {name: to_global(a, sharding, rows) for name, a in arrays.items()}
