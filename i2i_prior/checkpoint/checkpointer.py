"""Orbax behind one small module: save, restore, init from another run.

Checkpoint N is the state after N updates. A directory under its final name
is complete: Orbax writes beside and renames.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.io import disk

_ITEMS = ("ema", "training")


def _not_of_orbax(record: Any) -> bool:
    # It logs every clean-up, and a traceback of each error that it raises.
    return "orbax" not in record.pathname


logging.get_absl_logger().addFilter(_not_of_orbax)


@dataclass
class _Kept:
    """Orbax's preservation policy: the newest ones, and one beside them."""

    newest: int
    protected: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """For each of the checkpoints, oldest first."""
        first = len(checkpoints) - self.newest
        return [
            number >= first or found.step == self.protected
            for number, found in enumerate(checkpoints)
        ]


class Checkpoints:
    """The checkpoints of one run.

    Nothing is made on disk before the first `save`.

    Args:
      workdir: the run directory; files go to workdir/checkpoints/STEP.
      keep: newest checkpoints kept, beside a protected one.
      read_only: never write there, for readers of a run that may be live.
    """

    def __init__(self, workdir: Path, keep: int = 3, read_only: bool = False):
        self.directory = Path(workdir).resolve() / "checkpoints"
        self._kept = _Kept(keep)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self._kept,
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

    def protect(self, step: int | None) -> None:
        """Keeps one checkpoint, until another is protected or none (None).

        All processes of a run call alike.
        """
        self._kept.protected = step

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
            # Orbax on a full disk fails late, on threads, in hundreds of lines.
            needed = sum(array.nbytes for array in jax.tree.leaves(state))
            disk.require_space(self.directory, needed)
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
          abstract: name -> shape, dtype and sharding; what is stored in
            bfloat16 may be wanted in float32.
          step: which checkpoint.

        Raises:
          UserError: where it does not hold these parameters.
        """
        items = {"ema": abstract}
        return self._restore(step, items, widening=True)["ema"]

    def restore_raw(
        self, abstract: dict[str, jax.ShapeDtypeStruct], step: int
    ) -> dict[str, jax.Array]:
        """As `restore_ema`, with the trained parameters before averaging.

        Raises:
          UserError: where only one set of weights is there.
        """
        stored = self._manager.item_metadata(step)["training"] or {}
        trained = {
            f"params.{_dotted(name)}": name
            for name in abstract
            if f"params.{_dotted(name)}" in stored
        }
        if not trained:
            raise UserError(
                f"checkpoint {self.directory / str(step)} holds one set of "
                "weights only; ask for the EMA"
            )
        frozen = {_dotted(name): name for name in abstract}
        for name in trained.values():
            del frozen[_dotted(name)]
        return self._read_some(
            step, "training", trained, abstract
        ) | self._read_some(step, "ema", frozen, abstract)

    def _read_some(
        self,
        step: int,
        item: str,
        names: dict[str, str],
        abstract: dict[str, jax.ShapeDtypeStruct],
    ) -> dict[str, jax.Array]:
        """Reads some leaves of an item: stored name -> ours."""
        if not names:
            return {}
        wanted = {stored: abstract[name] for stored, name in names.items()}
        arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
        with ocp.PyTreeCheckpointer() as reader:
            found = reader.restore(
                self.directory / str(step) / item,
                args=ocp.args.PyTreeRestore(
                    wanted, arguments, partial_restore=True
                ),
            )
        return {name: found[stored] for stored, name in names.items()}

    def _restore(
        self, step: int, items: dict[str, Any], widening: bool = False
    ) -> dict[str, Any]:
        targets = {name: _to_tree(item) for name, item in items.items()}
        place = self.directory / str(step)
        try:
            stored = self._manager.item_metadata(step)
            for name, target in targets.items():
                _compare(stored[name], target, place, widening)
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

    def quarantine(self, step: int) -> Path:
        """Moves a checkpoint that is no good to workdir/rejected/STEP."""
        place = self.directory.parent / "rejected" / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(place)
        runtime.sync_point("a checkpoint put aside")
        self._manager.reload()
        return place

    def close(self) -> None:
        """Waits, then releases Orbax's threads."""
        if "_manager" not in vars(self):
            return
        try:
            self.wait()
        finally:
            self._manager.close()

    def full_disk_explained(self) -> contextlib.AbstractContextManager[None]:
        """Turns a full disk, however it is spelled, into a UserError."""
        return disk.full_disk_errors(self.directory.parent, self.latest)


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
        _dotted(jax.tree_util.keystr(path, simple=True, separator=".")): leaf
        for path, leaf in leaves
    }


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _compare(
    stored: Any, target: dict[str, Any], place: Path, widening: bool
) -> None:
    """Refuses other names, shapes and dtypes (Orbax would cast those).

    With `widening`, bfloat16 there may be float32 here, which is exact.
    """

    def described(tree: Any) -> dict[str, str]:
        return {
            name: f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"
            for name, leaf in tree.items()
        }

    there, here = described(stored), described(target)

    def fits(name: str) -> bool:
        found, wanted = there.get(name, ""), here.get(name, "")
        wide = found.replace("bfloat16", "float32") if widening else found
        return wanted in (found, wide)

    differing = [
        f"{name} is {there.get(name, 'absent')} there, "
        f"{here.get(name, 'absent')} here"
        for name in here | there
        if not fits(name)
    ]
    if differing:
        more = f" and {len(differing) - 1} more" * (len(differing) > 1)
        raise UserError(
            f"checkpoint {place} does not hold the state of this config "
            f"({differing[0]}{more}); use a new workdir or the config it was "
            "made with"
        )
