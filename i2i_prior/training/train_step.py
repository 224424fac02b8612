"""Train step: a pure function (state, batch) -> (state, metrics)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from i2i_prior.checkpoint.stochastic_rounding import narrow, widen
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.parallel import mesh as meshes
from i2i_prior.parallel.constraints import on_mesh
from i2i_prior.parallel.sharding import optimizer_shardings, parameter_shardings
from i2i_prior.tasks.base import Task

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# Folded into a step's key: larger than any number that the task's splits use
# (split(key, n)[i] is fold_in(key, i)).
_ROUNDING = 1 << 16


def init_state(
    task: Task,
    transform: optax.GradientTransformation,
    key: jax.Array,
    ema_dtype: str = "float32",
) -> TrainState:
    """Initialises a state with parameters drawn from `key`; jit it with
    `state_shardings` as out_shardings. `ema_dtype` is float32 or bfloat16."""
    params, frozen = task.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        # A copy: donated buffers must not be shared.
        ema={n: jnp.array(a, ema_dtype) for n, a in params.items()},
        opt_state=transform.init(params),
    )


def state_shardings(
    abstract: TrainState, transform: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """TrainState of NamedShardings for one of shapes."""
    params = parameter_shardings(abstract.params, mesh)
    return TrainState(
        step=meshes.replicated(mesh),
        params=params,
        frozen=parameter_shardings(abstract.frozen, mesh),
        ema=params,
        opt_state=optimizer_shardings(
            transform, abstract.opt_state, params, mesh
        ),
    )


def ema_decay(step: jax.Array, limit: float) -> jax.Array:
    """EMA decay with warm-up: min(limit, (1 + step) / (10 + step))."""
    step = step.astype(jnp.float32)
    return jnp.minimum(limit, (1 + step) / (10 + step))


def make_train_step(
    task: Task,
    transform: optax.GradientTransformation,
    *,
    run_key: jax.Array,
    ema_limit: float,
    accumulate: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes the pure step(state, batch) -> (state, metrics), not yet jitted.

    Step k draws from fold_in(run_key, k), and from nothing else. A state that
    the optimizer `transform` keeps in bfloat16 is rounded by `key`. `ema_limit`
    is the EMA decay after its warm-up. `accumulate` counts micro-batches; the
    result equals that of the full batch up to summation order, since everything
    random is drawn before the split. Metrics are float32 scalars.
    """

    def mean_loss(params, frozen, batch, draws):
        loss, parts = task.loss({**params, **frozen}, batch, draws)
        parts = {name: part.mean() for name, part in parts.items()}
        return loss.mean(), {"loss": loss.mean(), **parts}

    gradient = jax.grad(mean_loss, has_aux=True)
    transform = optax.with_extra_args_support(transform)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(run_key, state.step)
        draws = task.draw(key, task.shape_of(batch))
        if accumulate == 1:
            grads, metrics = gradient(state.params, state.frozen, batch, draws)
        else:
            grads, metrics = _accumulated(
                gradient, state, (batch, draws), accumulate
            )
        rounding = jax.random.fold_in(key, _ROUNDING)
        moments, average = jax.random.split(rounding)
        updates, opt_state = transform.update(
            grads, state.opt_state, state.params, key=moments
        )
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, ema_limit)
        ema = jax.tree.map(
            lambda old, new: old + (1 - decay) * (new - old),
            widen(state.ema),
            params,
        )
        ema = narrow(ema, state.ema, average)
        metrics["grad_norm"] = optax.global_norm(grads)
        new = TrainState(state.step + 1, params, state.frozen, ema, opt_state)
        return new, metrics

    return step


def _accumulated(gradient, state: TrainState, examples, parts: int):
    """Means of gradients and metrics over micro-batches, one at a time."""

    def split(array: jax.Array) -> jax.Array:
        # Strided, so that the sharding of the batch axis stays the same.
        split = array.reshape(-1, parts, *array.shape[1:])
        return jnp.swapaxes(split, 0, 1)

    def body(total, micro):
        batch, draws = micro
        result = gradient(state.params, state.frozen, batch, draws)
        return jax.tree.map(lambda a, b: a + b / parts, total, result), None

    micros = jax.tree.map(split, examples)
    first = jax.tree.map(lambda a: a[0], micros)
    shapes = jax.eval_shape(gradient, state.params, state.frozen, *first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(body, zeros, micros)[0]


def compile_step(step, shardings: TrainState, mesh: Mesh):
    """Jits a step with the shardings of its arguments; donates the state."""

    def laid_out(state: TrainState, batch: Batch):
        with on_mesh(mesh):
            return step(state, batch)

    return jax.jit(
        laid_out,
        in_shardings=(shardings, meshes.batch_sharding(mesh)),
        out_shardings=(shardings, meshes.replicated(mesh)),
        donate_argnums=0,
    )
