"""Cache of traced counts, in memory and in the user's cache folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from i2i_prior import flops, models
from i2i_prior.flops.trace import Part
from i2i_prior.io.cache_dir import user_cache
from i2i_prior.io.files import write_json
from i2i_prior.models.blocks import BLOCKS


def cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Caches a function of configs that returns `Parts` or a number.

    A file is found by the arguments and the source of all networks, so that a
    changed network is counted again. The folder may be removed at any time.
    """

    @functools.lru_cache(maxsize=4096)
    def counted(blocks: tuple[Any, ...], *arguments: Any) -> Any:
        key = repr((jax.__version__, function.__name__, arguments))
        digest = hashlib.sha256(key.encode() + _source(blocks))
        path = user_cache("flops", f"{digest.hexdigest()}.json")
        with contextlib.suppress(OSError, ValueError, TypeError):
            return _read(json.loads(path.read_text()))
        found = function(*arguments)
        with contextlib.suppress(OSError):
            write_json(path, _plain(found))
        return found

    def call(*arguments: Any) -> Any:
        blocks = [(block.cls, block.final) for block in BLOCKS.values()]
        found = counted(tuple(itertools.chain(*blocks)), *arguments)
        return dict(found) if isinstance(found, dict) else found

    return functools.wraps(function)(call)


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: dataclasses.astuple(p) for name, p in found.items()}
    return found


def _read(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {name: Part(*numbers) for name, numbers in plain.items()}
    return int(plain)


@functools.cache
def _source(blocks: tuple[Any, ...]) -> bytes:
    """Digest of the source files that decide a count."""
    files = {
        file
        for package in (models, flops)
        for file in Path(package.__path__[0]).rglob("*.py")
    }
    for maker in blocks:
        files.add(Path(inspect.getfile(getattr(maker, "func", maker))))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.digest()
