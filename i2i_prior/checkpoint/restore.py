"""Parameters from a checkpoint, another run, a weight file or the seed."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.run_dir import WEIGHTS, read_json
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.errors import UserError
from i2i_prior.interop import native
from i2i_prior.parallel.global_arrays import place

# File of a run directory that names its best checkpoint.
BEST = "best.json"


def restore_or_init(
    checkpoints: Checkpoints,
    abstract: TrainState,
    initialise: Any,
    init_from: str = "",
) -> tuple[TrainState, str]:
    """Restores the newest checkpoint, else another run's EMA, else the seed.

    Args:
      checkpoints: of this run.
      abstract: shapes with shardings.
      initialise: () -> fresh sharded TrainState.
      init_from: workdir of another run, "" for none.

    Returns:
      the state, and a phrase on its origin.

    Raises:
      UserError: init_from holds no checkpoint of this model.
    """
    if (latest := checkpoints.latest()) is not None:
        return checkpoints.restore(abstract, latest), f"resumed, step {latest}"
    state = initialise()
    if not init_from:
        return state, "fresh from the seed"
    wanted = {**abstract.params, **abstract.frozen}
    ema = load_parameters(Path(init_from), wanted)[0]
    params = {name: ema[name] for name in state.params}
    state = dataclasses.replace(
        state,
        params=params,
        frozen={name: ema[name] for name in state.frozen},
        ema={
            name: jnp.array(array, abstract.ema[name].dtype)
            for name, array in params.items()
        },
    )
    return state, f"parameters from {init_from}"


def load_parameters(
    workdir: Path,
    abstract: dict[str, jax.ShapeDtypeStruct],
    step: int | str | None = None,
    weights: str = "ema",
) -> tuple[dict[str, jax.Array], int]:
    """Reads all parameters of a run's checkpoint, and its step.

    Args:
      workdir: a run directory, trained (a live run is not disturbed) or
        imported; or a file that `i2i-prior export` wrote.
      abstract: name -> shape, dtype, sharding. A bfloat16 EMA may be read as
        float32.
      step: of the checkpoint, or "best"; the newest when None.
      weights: "ema", or "raw" for the trained ones before averaging.

    Raises:
      UserError: there is no such checkpoint.
    """
    file = workdir if workdir.is_file() else workdir / WEIGHTS
    if workdir.is_file() and not native.is_native(workdir):
        raise UserError(
            f"{workdir} is not a file that `i2i-prior export` wrote; turn it "
            "into a run with `i2i-prior import` first"
        )
    if file.is_file():
        if weights != "ema" or step not in (None, 0):
            raise UserError(
                f"{file} holds one set of weights only; leave out the step "
                "and ask for the EMA"
            )
        return _read_file(file, abstract), 0
    if not (Path(workdir) / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints; train there first")
    if step == "best":
        step = best_step(workdir)
    source = Checkpoints(workdir, read_only=True)
    try:
        steps = source.steps()
        if not steps or (step is not None and step not in steps):
            raise UserError(
                f"{source.directory} holds no complete checkpoint"
                + (f" of step {step}, but {steps}" if step and steps else "")
            )
        chosen = steps[-1] if step is None else int(step)
        return source.restore_parameters(abstract, chosen, weights), chosen
    finally:
        source.close()


def best_step(workdir: Path) -> int:
    """Returns the step of the best checkpoint; UserError without a record."""
    file = Path(workdir) / BEST
    if not file.exists():
        raise UserError(
            f"{workdir} has no best checkpoint; train it with "
            "--config.evaluate.best_metric=NAME, or give a step"
        )
    return int(read_json(file)["step"])


def identity(workdir: Path, step: int) -> str:
    """Returns 16 hex digits that differ between checkpoints of one step.

    They are a hash of Orbax's own record, which has the time of the save, or
    of the size and modification time of imported weights.
    """
    record = workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
    if record.is_file():
        facts = record.read_bytes()
    else:
        stat = (workdir / WEIGHTS).stat()
        facts = f"{stat.st_size} {stat.st_mtime_ns}".encode()
    return hashlib.sha256(facts).hexdigest()[:16]


def _read_file(
    file: Path, abstract: dict[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Reads the parameters of a file that `i2i-prior export` wrote."""
    tensors, _ = native.open_file(file)
    wrong = [
        name
        for name, shape in abstract.items()
        if name not in tensors or tensors[name].shape != shape.shape
    ]
    if wrong:
        raise UserError(
            f"{file} does not hold the parameters of this config: "
            f"{len(wrong)} are missing or misshapen ({', '.join(wrong[:3])})"
        )
    return {
        # One at a time, and gone from the host before the next.
        name: jax.block_until_ready(place(tensors[name].read(), shape.sharding))
        for name, shape in abstract.items()
    }
