"""Which of the dicts in a checkpoint holds the weights, under which names.

Trainers wrap a state dict: in `model` beside an optimizer, in `ema` beside
the raw weights, and `module.` before each key. Here it is unwrapped.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from i2i_prior.interop.files.pickle_machine import Inert
from i2i_prior.interop.files.unpickler import TorchTensor

# DiT and SiT: ema beside model; PixArt: state_dict_ema beside state_dict;
# timm: state_dict_ema; DINO: teacher, the moving average of student.
_EMA = (
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "ema",
    "teacher",
    "target_encoder",  # of I-JEPA, whose other copy is `encoder`
)
_RAW = (
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "module",
    "student",
    "encoder",
)
_DEPTH = 4  # dicts inside each other
_MAX_MODULES = 100_000  # a TorchScript file could share them without end

Tensors = dict[str, TorchTensor]


def pick(root: Any, weights: str) -> tuple[Tensors, str]:
    """The state dict in what a torch file held.

    Args:
      root: what was unpickled.
      weights: "ema" or "raw": which copy is taken where there are both.

    Returns:
      key -> tensor, empty where none is found, and the path of the dict
      that held them, such as `ema.module`; empty for a flat file.
    """
    names = (*_EMA, *_RAW) if weights == "ema" else (*_RAW, *_EMA)
    path: list[str] = []
    while isinstance(root, dict):
        found = [name for name in names if _holds(root.get(name), _DEPTH)]
        if not found or len(path) == _DEPTH:
            break
        path.append(found[0])
        root = root[found[0]]
    return _direct(root), ".".join(path)


def pick_script(root: Any) -> Tensors:
    """The tensors of a TorchScript module by their path of attributes."""
    found: Tensors = {}
    todo: list[tuple[str, Any]] = [("", root)]
    for _ in range(_MAX_MODULES):
        if not todo:
            return found
        prefix, module = todo.pop()
        if isinstance(module, Inert) and isinstance(module.state, dict):
            attributes = module.state.items()
            found |= {
                prefix + name: value
                for name, value in attributes
                if isinstance(value, TorchTensor)
            }
            todo += [
                (f"{prefix}{name}.", value)
                for name, value in reversed(attributes)
                if isinstance(value, Inert)
            ]
    return {}


def strip_prefixes(keys: Collection[str]) -> dict[str, str]:
    """Takes off what wrappers put before every key.

    `module.` (data parallel) and `_orig_mod.` (torch.compile), in any order
    and as often as all keys carry them; then `backbone.`, which DINO's
    trainers put before all keys but those of heads.

    Returns:
      stripped key -> key.
    """
    names = {key: key for key in keys}
    prefix: str | None = ""
    while prefix is not None:
        names = {name.removeprefix(prefix): k for name, k in names.items()}
        prefix = next(
            (
                wrapper
                for wrapper in ("module.", "_orig_mod.", "backbone.")
                if names and all(name.startswith(wrapper) for name in names)
            ),
            None,
        )
    if all(re.match(r"backbone\.|(\w+_)?head\.", name) for name in names):
        bare = {name.removeprefix("backbone."): k for name, k in names.items()}
        if len(bare) == len(names):
            return bare
    return names


def _direct(node: Any) -> Tensors:
    if not isinstance(node, dict):
        return {}
    return {
        key: value
        for key, value in node.items()
        if isinstance(value, TorchTensor)
    }


def _holds(node: Any, depth: int) -> bool:
    """Whether a dict, or a dict of a known name within, has tensors."""
    if not isinstance(node, dict) or depth == 0:
        return False
    return bool(_direct(node)) or any(
        _holds(node.get(name), depth - 1) for name in (*_EMA, *_RAW)
    )
