"""Leaves of a checkpoint: how a state is arranged, and whether it fits."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.errors import UserError

ITEMS = ("ema", "training")


def items_of(state: TrainState) -> dict[str, dict[str, Any]]:
    """Arranges a state as item -> leaf -> array.

    Two items, so that readers of the EMA read only that. Leaves have dotted
    names on one level: Orbax takes the slashes of our names for folders.
    """
    items: dict[str, dict[str, Any]] = {name: {} for name in ITEMS}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        item, name = place_of(path)
        items[item][name] = leaf
    return items


def place_of(path: tuple[Any, ...]) -> tuple[str, str]:
    """Returns the item and leaf name of a path into a TrainState."""
    name = dotted(jax.tree_util.keystr(path, simple=True, separator="."))
    part, _, rest = name.partition(".")
    return ("ema", rest) if part in ("ema", "frozen") else ("training", name)


def dotted(name: str) -> str:
    """A parameter's name with dots for slashes."""
    return name.replace("/", ".")


def check_leaves(
    stored: Any,
    target: dict[str, Any],
    folder: Path,
    widen: bool,
    partial: bool,
) -> None:
    """Refuses other names, shapes and dtypes (Orbax would cast those).

    Args:
      stored, target: leaf -> array metadata; and shape and dtype.
      folder: of the checkpoint, for the message.
      widen: accept stored bfloat16 as float32, which is exact.
      partial: accept more stored leaves than those of `target`.
    """

    def describe(tree: Any) -> dict[str, str]:
        return {
            name: f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}"
            for name, leaf in tree.items()
        }

    there, here = describe(stored), describe(target)

    def fits(name: str) -> bool:
        found, wanted = there.get(name, ""), here.get(name, "")
        wide = found.replace("bfloat16", "float32") if widen else found
        return wanted in (found, wide)

    differing = [
        f"{name} is {there.get(name, 'absent')} there, "
        f"{here.get(name, 'absent')} here"
        for name in (here if partial else here | there)
        if not fits(name)
    ]
    if differing:
        more = f" and {len(differing) - 1} more" * (len(differing) > 1)
        raise UserError(
            f"checkpoint {folder} does not hold the state of this config "
            f"({differing[0]}{more}); use a new workdir or the config it was "
            "made with"
        )
