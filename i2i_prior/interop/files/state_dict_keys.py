"""Search for the state dict in a training checkpoint.

Trainers wrap a state dict in a dict with an optimizer's and an average's, and
put prefixes such as `module.` before each key.
"""

import re
from collections.abc import Collection
from typing import Any

from i2i_prior.interop.files.pickle_machine import Inert
from i2i_prior.interop.files.unpickler import TorchTensor

# DiT and SiT: ema and model; PixArt: state_dict_ema and state_dict;
# timm: state_dict_ema; DINO: teacher, the moving average of student.
_EMA = (
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "ema",
    "teacher",
    "target_encoder",  # of I-JEPA; its raw copy is `encoder`
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
_MAX_DEPTH = 4  # of nested dicts
_MAX_MODULES = 100_000  # a TorchScript file could nest them without end

Tensors = dict[str, TorchTensor]


def find_state_dict(root: Any, weights: str) -> tuple[Tensors, str]:
    """Finds the state dict in an unpickled torch file.

    `weights` is "ema" or "raw", the copy to take of two. Returns key -> tensor,
    empty if there is none, and the path of the dict that held them, such as
    `ema.module`; empty for a flat file.
    """
    names = (*_EMA, *_RAW) if weights == "ema" else (*_RAW, *_EMA)
    path: list[str] = []
    while isinstance(root, dict):
        inner = [
            name for name in names if _has_tensors(root.get(name), _MAX_DEPTH)
        ]
        if not inner or len(path) == _MAX_DEPTH:
            break
        path.append(inner[0])
        root = root[inner[0]]
    return _own_tensors(root), ".".join(path)


def script_state_dict(root: Any) -> Tensors:
    """Returns the tensors of a TorchScript module by attribute path."""
    found: Tensors = {}
    todo: list[tuple[str, Any]] = [("", root)]
    for _ in range(_MAX_MODULES):
        if not todo:
            return found
        prefix, module = todo.pop()
        if isinstance(module, Inert) and isinstance(module.state, dict):
            own = _own_tensors(module.state)
            found |= {prefix + name: value for name, value in own.items()}
            todo += [
                (f"{prefix}{name}.", value)
                for name, value in reversed(module.state.items())
                if isinstance(value, Inert)
            ]
    return {}


def strip_prefixes(keys: Collection[str]) -> dict[str, str]:
    """Removes the prefixes of wrapper modules; returns stripped key -> key.

    `module.` (data parallel) and `_orig_mod.` (torch.compile), in any order
    and as often as all keys carry them; then `backbone.`, which DINO's
    trainers put before all keys but those of heads.
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


def _own_tensors(node: Any) -> Tensors:
    """Returns the tensors that are values of a dict itself."""
    items = node.items() if isinstance(node, dict) else ()
    return {
        key: value for key, value in items if isinstance(value, TorchTensor)
    }


def _has_tensors(node: Any, depth: int) -> bool:
    """Returns True if a dict, or one of a known name in it, has tensors."""
    if not isinstance(node, dict) or depth == 0:
        return False
    return bool(_own_tensors(node)) or any(
        _has_tensors(node.get(name), depth - 1) for name in (*_EMA, *_RAW)
    )
