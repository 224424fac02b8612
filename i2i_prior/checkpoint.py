"""Orbax behind one small module: save, restore, init from another run.

Checkpoint N is the state after N updates. A directory under its final name
is complete: Orbax writes beside and renames.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from i2i_prior.errors import UserError
from i2i_prior.step import TrainState

_ITEMS = ("ema", "training")
_NO_SPACE = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")


def _not_of_orbax(record: Any) -> bool:
    # It logs every clean-up, and a traceback of each error that it raises.
    return "orbax" not in record.pathname


logging.get_absl_logger().addFilter(_not_of_orbax)


class Checkpoints:
    """The checkpoints of one run.

    Nothing is made on disk before the first `save`.

    Args:
      workdir: the run directory; files go to workdir/checkpoints/STEP.
      keep: newest checkpoints kept.
      read_only: never write there, for readers of a run that may be live.
    """

    def __init__(self, workdir: Path, keep: int = 3, read_only: bool = False):
        self.directory = Path(workdir).resolve() / "checkpoints"
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
            read_only=read_only,
            # What a killed or starved save left would stay for ever.
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
        )

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            options=self._options,
            item_names=_ITEMS,
            item_handlers={
                name: ocp.StandardCheckpointHandler() for name in _ITEMS
            },
        )

    def latest(self) -> int | None:
        """The newest complete step, None where there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All complete steps, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Starts to save in the background under the state's step.

        Raises:
          UserError: where the disk is full (now or in the save before).
        """
        step = int(state.step)
        if step in self.steps():
            return
        self.wait()
        with self.full_disk_explained():
            self._require_space(state)
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
        if "_manager" not in vars(self):
            return
        with self.full_disk_explained():
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
        place = self.directory / str(step)
        try:
            stored = self._manager.item_metadata(step)
            for name, target in targets.items():
                _compare(stored[name], target, place)
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.StandardRestore(target)
                        for name, target in targets.items()
                    }
                ),
            )
        except (ValueError, TypeError, KeyError, OSError) as error:
            first = " ".join(str(error).split())[:200]
            raise UserError(
                f"checkpoint {place} is damaged ({first}); delete it, and the "
                "one before it counts"
            ) from error
        restored = {}
        for name, item in items.items():
            leaves = [found[name][leaf] for leaf in targets[name]]
            treedef = jax.tree_util.tree_structure(item)
            restored[name] = jax.tree_util.tree_unflatten(treedef, leaves)
        return restored

    def close(self) -> None:
        """Waits, then releases Orbax's threads."""
        if "_manager" not in vars(self):
            return
        try:
            self.wait()
        finally:
            self._manager.close()

    def _require_space(self, state: TrainState) -> None:
        # Orbax on a full disk fails late, on threads, in hundreds of lines.
        self.directory.mkdir(parents=True, exist_ok=True)
        needed = sum(array.nbytes for array in jax.tree.leaves(state))
        if shutil.disk_usage(self.directory).free < needed:
            raise OSError(errno.ENOSPC, f"a checkpoint takes {needed} bytes")

    @contextlib.contextmanager
    def full_disk_explained(self) -> Iterator[None]:
        """Turns a full disk, however it is spelled, into a UserError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            number = getattr(error, "errno", None)
            full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            if not full and not any(text in str(error) for text in _NO_SPACE):
                raise
            latest = self.latest()
            raise UserError(
                f"no space left in {self.directory.parent}; free some and "
                "run the same command again: it resumes from "
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


def _compare(stored: Any, target: dict[str, Any], place: Path) -> None:
    """Refuses other names, shapes and dtypes (Orbax would cast those)."""

    def described(tree: Any) -> dict[str, str]:
        return {
            name: f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"
            for name, leaf in tree.items()
        }

    there, here = described(stored), described(target)
    differing = [
        f"{name} is {there.get(name, 'absent')} there, "
        f"{here.get(name, 'absent')} here"
        for name in here | there
        if there.get(name) != here.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 1} more" * (len(differing) > 1)
        raise UserError(
            f"checkpoint {place} does not hold the state of this config "
            f"({differing[0]}{more}); use a new workdir or the config it was "
            "made with"
        )
