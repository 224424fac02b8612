"""Cache of traced counts, in memory and in the user's cache folder."""

import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from i2i_prior import flops, models, tasks
from i2i_prior.io.files import user_cache, write_json
from i2i_prior.models.blocks import BLOCKS
from i2i_prior.tasks.registry import TASKS

_MEMORY: dict[str, Any] = {}


def remember(key: tuple[Any, ...], count: Callable[[], Any]) -> Any:
    """Result of `count`, from the cache where it is there.

    A file is found by the `repr` of the key and the source of all networks
    and tasks, so that a changed network is counted again. The folder may be
    removed at any time. `count` returns plain values, as JSON has them.
    """
    classes = [c for block in BLOCKS.values() for c in (block.cls, block.final)]
    source = _source((*classes, *TASKS.values()))
    digest = hashlib.sha256(repr((jax.__version__, key)).encode() + source)
    name = digest.hexdigest()
    if name not in _MEMORY:
        path = user_cache("flops", f"{name}.json")
        with contextlib.suppress(OSError, ValueError):
            _MEMORY[name] = json.loads(path.read_text())
            return _MEMORY[name]
        _MEMORY[name] = count()
        with contextlib.suppress(OSError):
            write_json(path, _MEMORY[name])
    return _MEMORY[name]


@functools.cache
def _source(classes: tuple[Any, ...]) -> bytes:
    """Digest of the source files that decide a count."""
    files = {
        file
        for package in (models, flops, tasks)
        for file in Path(package.__path__[0]).rglob("*.py")
    }
    files |= {Path(inspect.getfile(getattr(c, "func", c))) for c in classes}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.digest()
