"""Orbax behind one small module: save, restore, init from another run.

Checkpoint N is the state after N updates. A directory under its final name
is complete: Orbax writes beside and renames.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from i2i_prior.errors import UserError
from i2i_prior.step import TrainState

_NO_SPACE = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: the run directory; files go to workdir/checkpoints/STEP.
      keep: newest checkpoints kept.
      read_only: never write there, for readers of a run that may be live.
    """

    def __init__(self, workdir: Path, keep: int = 3, read_only: bool = False):
        self.directory = Path(workdir).resolve() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                create=not read_only,
                read_only=read_only,
                enable_async_checkpointing=not read_only,
            ),
        )

    def latest(self) -> int | None:
        """The newest complete step, None where there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All complete steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Starts to save in the background under the state's step.

        Raises:
          UserError: where the disk is full (now or in the save before).
        """
        step = int(state.step)
        if step in self.steps():
            return
        with self._disk_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.StandardSave(_to_tree(part))
                        for name, part in _items(state).items()
                    }
                ),
            )

    def wait(self) -> None:
        """Returns when the save under way is on disk.

        Raises:
          UserError: where it failed.
        """
        with self._disk_errors():
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """Reads a checkpoint straight into its shardings.

        Args:
          abstract: TrainState of ShapeDtypeStructs that carry shardings.
          step: which one.

        Raises:
          UserError: where it does not hold this state.
        """
        items = _items(abstract)
        parts = self._restore(step, items)
        training, averaged = parts["training"], parts["ema"]
        return TrainState(
            step=training["step"],
            params=training["params"],
            opt_state=training["opt_state"],
            frozen={name: averaged[name] for name in abstract.frozen},
            ema={name: averaged[name] for name in abstract.ema},
        )

    def restore_ema(
        self, abstract: dict[str, jax.ShapeDtypeStruct], step: int
    ) -> dict[str, jax.Array]:
        """Reads EMA and frozen parameters only, a third of the bytes.

        Args:
          abstract: name -> shape, dtype and sharding.
          step: which checkpoint.

        Raises:
          UserError: where it does not hold these parameters.
        """
        return self._restore(step, {"ema": abstract})["ema"]

    def _restore(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        targets = {name: _to_tree(item) for name, item in items.items()}
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.StandardRestore(target)
                        for name, target in targets.items()
                    }
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            first = " ".join(str(error).split())[:200]
            raise UserError(
                f"checkpoint {self.directory / str(step)} does not hold the "
                f"state of this config ({first}); use a new workdir or the "
                "config it was made with"
            ) from error
        restored = {}
        for name, item in items.items():
            _check_types(targets[name], found[name])
            leaves = [found[name][leaf] for leaf in targets[name]]
            treedef = jax.tree_util.tree_structure(item)
            restored[name] = jax.tree_util.tree_unflatten(treedef, leaves)
        return restored

    def close(self) -> None:
        """Waits, then releases Orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _disk_errors(self) -> _DiskErrors:
        return _DiskErrors(self)


class _DiskErrors:
    """Turns a full disk, however it is spelled, into a UserError."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None or isinstance(error, UserError):
            return
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(text in str(error) for text in _NO_SPACE):
            latest = self._checkpoints.latest()
            raise UserError(
                f"no space left for a checkpoint in "
                f"{self._checkpoints.directory}; free some and run the same "
                "command again: it resumes from "
                + (f"step {latest}" if latest is not None else "the start")
            ) from error


def restore_or_init(
    checkpoints: Checkpoints,
    abstract: TrainState,
    initialise: Any,
    init_from: str = "",
) -> tuple[TrainState, str]:
    """The newest checkpoint, else another run's EMA, else the seed.

    Args:
      checkpoints: of this run.
      abstract: shapes with shardings.
      initialise: () -> fresh sharded TrainState.
      init_from: workdir of another run, "" for none.

    Returns:
      the state, and a phrase that says where it came from.

    Raises:
      UserError: where init_from holds no checkpoint of this model.
    """
    latest = checkpoints.latest()
    if latest is not None:
        return checkpoints.restore(abstract, latest), f"resumed, step {latest}"
    state = initialise()
    if not init_from:
        return state, "fresh from the seed"
    wanted = {**abstract.ema, **abstract.frozen}
    ema = load_ema(Path(init_from), wanted)[0]
    params = {name: ema[name] for name in state.params}
    return (
        TrainState(
            step=state.step,
            params=params,
            frozen={name: ema[name] for name in state.frozen},
            ema=jax.tree.map(lambda a: a.copy(), params),
            opt_state=state.opt_state,
        ),
        f"parameters from {init_from}",
    )


def load_ema(
    workdir: Path,
    abstract: dict[str, jax.ShapeDtypeStruct],
    step: int | None = None,
) -> tuple[dict[str, jax.Array], int]:
    """EMA (and frozen) parameters of a run's checkpoint, and its step.

    Args:
      workdir: a run directory; a live run is not disturbed.
      abstract: name -> shape, dtype, sharding.
      step: which checkpoint; the newest when None.

    Raises:
      UserError: where there is no such checkpoint.
    """
    if not (Path(workdir) / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints; train there first")
    source = Checkpoints(workdir, read_only=True)
    try:
        steps = source.steps()
        if not steps or (step is not None and step not in steps):
            raise UserError(
                f"{source.directory} holds no complete checkpoint"
                + (f" of step {step}, but {steps}" if step and steps else "")
            )
        chosen = steps[-1] if step is None else step
        return source.restore_ema(abstract, chosen), chosen
    finally:
        source.close()


def _items(state: TrainState) -> dict[str, Any]:
    """What is stored apart, so that readers of the EMA read only it."""
    return {
        "ema": state.ema_parameters(),
        "training": {
            "step": state.step,
            "params": state.params,
            "opt_state": state.opt_state,
        },
    }


def _to_tree(values: Any) -> dict[str, Any]:
    # Names hold slashes, which Orbax would take for folders: one level of
    # dotted names instead.
    leaves = jax.tree_util.tree_flatten_with_path(values)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").replace(
            "/", "."
        ): leaf
        for path, leaf in leaves
    }


def _check_types(target: dict[str, Any], tree: dict[str, Any]) -> None:
    """Orbax casts silently where dtypes differ; we do not."""
    for name, wanted in target.items():
        if np.dtype(wanted.dtype) != np.dtype(tree[name].dtype):
            raise UserError(
                f"checkpoint array {name} is {tree[name].dtype}, this "
                f"config wants {wanted.dtype}"
            )
