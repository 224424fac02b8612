"""All config fields, and the names that they had in earlier versions."""

import functools
import sys
from typing import Any

from i2i_prior.config.options import FIELDS

# Imported in the order in which a config lists its sections.
from i2i_prior.config.sections import data, networks, training  # noqa: F401  # isort: skip
from i2i_prior.config.sections import measurement  # noqa: F401  # isort: skip

# Fields that each process of a run may set for its own machine.
HOST_LOCAL = frozenset(f.name for f in FIELDS.values() if f.host_local)
# Fields that do not change what is learned; they may differ on resume.
RESUMABLE = frozenset(f.name for f in FIELDS.values() if f.resumable)

RENAMED = {
    "conditioner.choice": "conditioner.tokens_from",
    "diffusion.convention": "diffusion.time_convention",
}
# (name, value of the first version) -> value, and back.
_VALUES = {
    ("diffusion.time_convention", "own"): "native",
    ("diffusion.time_convention", "unit"): "repa",
}
_FIRST_VALUES = {(name, new): old for (name, old), new in _VALUES.items()}
_FIRST_NAMES = {new: old for old, new in RENAMED.items()}
# Older still: the first version itself read it under today's value.
_READ = _VALUES | {("encoder.pixels", "imagenet"): "family"}


def current(name: str, value: Any, note: bool = True) -> tuple[str, Any]:
    """A field and its value under the names of this version.

    With `note` a renamed field is noted on stderr, once a process.
    """
    if note and name in RENAMED:
        _note(name)
    name = RENAMED.get(name, name)
    if isinstance(value, str):
        value = _READ.get((name, value), value)
    return name, value


def recorded(flat: dict[str, Any]) -> dict[str, Any]:
    """Copy of some fields as the first version would name them, for hashes
    that last: later ones are left out where they have their default."""
    found = {}
    for name, value in flat.items():
        if FIELDS[name].added and value == FIELDS[name].default:
            continue
        value = _FIRST_VALUES.get((name, value), value)
        found[_FIRST_NAMES.get(name, name)] = value
    return found


@functools.cache
def _note(name: str) -> None:
    print(f"note: {name} is called {RENAMED[name]} now", file=sys.stderr)
