"""Checkpoints of a run in Orbax's format: save, restore, protect, quarantine.

Checkpoint N is the state after N updates. A directory under its final name
is complete: Orbax writes to a temporary one and renames it.
"""

import contextlib
import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from i2i_prior.checkpoint.leaves import (
    ITEMS,
    check_leaves,
    dotted,
    items_of,
    place_of,
)
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.io import disk
from i2i_prior.io.files import local_path

# Orbax logs every clean-up, and a traceback of each error that it raises.
logging.get_absl_logger().addFilter(
    lambda record: "orbax" not in record.pathname
)


@dataclass
class _KeepNewest:
    """Preservation policy for Orbax: the newest ones and a protected one."""

    newest: int
    protected: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Returns a flag for each checkpoint, oldest first."""
        first = len(checkpoints) - self.newest
        return [
            number >= first or checkpoint.step == self.protected
            for number, checkpoint in enumerate(checkpoints)
        ]


class Checkpoints:
    """Checkpoints of one run, in workdir/checkpoints/STEP.

    Nothing is made on disk before the first `save`.

    Args:
      workdir: the run directory.
      keep: number of newest checkpoints kept, besides a protected one.
      read_only: never write there, for readers of a run that may be live.
    """

    def __init__(self, workdir: Path, keep: int = 3, read_only: bool = False):
        self.directory = local_path(workdir).resolve() / "checkpoints"
        self._policy = _KeepNewest(keep)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self._policy,
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
            read_only=read_only,
            # Removes the rest of a killed save.
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
        )

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            options=self._options,
            item_names=ITEMS,
            item_handlers={n: ocp.StandardCheckpointHandler() for n in ITEMS},
        )

    def protect(self, step: int | None) -> None:
        """Keeps one checkpoint until another one, or None, is protected.

        All processes of a run call it with the same step.
        """
        self._policy.protected = step

    def latest(self) -> int | None:
        """Returns the newest complete step, None without a checkpoint."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Returns all complete steps, ascending."""
        there = self.directory.is_dir()
        return sorted(self._manager.all_steps()) if there else []

    def save(self, state: TrainState) -> None:
        """Starts to save a state in the background, under its step.

        Raises UserError for a full disk, now or in the save before.
        """
        step = int(state.step)
        if step in self.steps():
            return
        self.wait()
        with self.full_disk_errors():
            # Orbax on a full disk fails late, on threads, in hundreds of lines.
            needed = sum(array.nbytes for array in jax.tree.leaves(state))
            disk.require_space(self.directory, needed)
            items = {
                item: ocp.args.StandardSave(leaves)
                for item, leaves in items_of(state).items()
            }
            self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Waits until the save under way is on disk; UserError if it failed."""
        if "_manager" not in vars(self):
            return
        with self.full_disk_errors():
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """Reads a whole state straight into its shardings.

        Args:
          abstract: TrainState of ShapeDtypeStructs that carry shardings.

        Raises:
          UserError: the checkpoint does not hold this state, or is damaged.
        """
        items = self._read(step, items_of(abstract))

        def restored(path: tuple[Any, ...], _: Any) -> jax.Array:
            item, name = place_of(path)
            return items[item][name]

        return jax.tree_util.tree_map_with_path(restored, abstract)

    def restore_parameters(
        self,
        abstract: dict[str, jax.ShapeDtypeStruct],
        step: int,
        weights: str = "ema",
    ) -> dict[str, jax.Array]:
        """Reads trained and frozen parameters only, a third of the bytes.

        Args:
          abstract: name -> shape, dtype and sharding; parameters stored in
            bfloat16 may be asked for in float32.
          weights: "ema", or "raw" for the trained ones before averaging.

        Raises:
          UserError: the checkpoint does not hold these parameters, is damaged,
            or has no raw ones.
        """
        stored = {name: ("ema", dotted(name)) for name in abstract}
        if weights == "raw":
            training = self._manager.item_metadata(step)["training"] or {}
            trained = {
                name: ("training", f"params.{leaf}")
                for name, (_, leaf) in stored.items()
                if f"params.{leaf}" in training
            }
            if not trained:
                raise UserError(
                    f"checkpoint {self.directory / str(step)} holds one set "
                    "of weights only; ask for the EMA"
                )
            stored |= trained
        targets: dict[str, dict[str, Any]] = {}
        for name, (item, leaf) in stored.items():
            targets.setdefault(item, {})[leaf] = abstract[name]
        items = self._read(step, targets, widen=True, partial=weights == "raw")
        return {
            name: items[item][leaf] for name, (item, leaf) in stored.items()
        }

    def _read(
        self,
        step: int,
        targets: dict[str, dict[str, Any]],
        *,
        widen: bool = False,
        partial: bool = False,
    ) -> dict[str, dict[str, jax.Array]]:
        """Reads leaves of Orbax items: item -> leaf -> shape, dtype, sharding.

        `widen` and `partial` are those of `check_leaves`.
        """
        folder = self.directory / str(step)
        items = {}
        try:
            stored = self._manager.item_metadata(step)
            for item, target in targets.items():
                check_leaves(stored[item], target, folder, widen, partial)
            with ocp.PyTreeCheckpointer() as reader:
                for item, target in targets.items():
                    how = ocp.checkpoint_utils.construct_restore_args(target)
                    args = ocp.args.PyTreeRestore(
                        target, how, partial_restore=True
                    )
                    items[item] = reader.restore(folder / item, args=args)
        except (ValueError, TypeError, KeyError, OSError) as error:
            first = " ".join(str(error).split())[:200]
            raise UserError(
                f"checkpoint {folder} is damaged ({first}); delete it, and "
                "the one before it counts"
            ) from error
        return items

    def quarantine(self, step: int) -> Path:
        """Moves a faulty checkpoint to workdir/rejected/STEP."""
        target = self.directory.parent / "rejected" / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(target)
        runtime.sync_point("a rejected checkpoint")
        self._manager.reload()
        return target

    def close(self) -> None:
        """Waits for the save under way, then releases Orbax's threads."""
        if "_manager" not in vars(self):
            return
        try:
            self.wait()
        finally:
            self._manager.close()

    def full_disk_errors(self) -> contextlib.AbstractContextManager[None]:
        """Turns any error of a full disk into a FullDiskError."""
        return disk.full_disk_errors(self.directory.parent, self.latest)
