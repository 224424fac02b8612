"""Filters: one record in, a reason to drop it out, or None.

Built in are the least side, the greatest aspect ratio and the least entropy;
further ones are functions of a user's file. A filter runs in many threads.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.data.record import Record
from i2i_prior.errors import UserError

THUMBNAIL = 64  # side of `Look.thumbnail`


@dataclass(frozen=True)
class Look:
    """What a filter sees of a record.

    Attributes:
        record: as its source holds it.
        height, width: in pixels, upright.
        thumbnail: the whole image squeezed to (64, 64, 3) uint8.
        pixels: () -> the image (H, W, 3) uint8, which may cost its decoding.
    """

    record: Record
    height: int
    width: int
    thumbnail: np.ndarray
    pixels: Callable[[], np.ndarray]


def stored_bytes(record: Record) -> int:
    """Bytes of a record's image as its source holds it."""
    data = record.data
    return len(data) if isinstance(data, bytes) else data.nbytes


# Why the record is dropped, completing "the image ...", or None to keep it.
Filter = Callable[[Look], str | None]


def min_side(least: int) -> Filter:
    """Keeps images whose shorter side has at least that many pixels."""

    def judge(look: Look) -> str | None:
        if min(look.height, look.width) >= least:
            return None
        size = f"{look.width} x {look.height}"
        return f"has {size} pixels, a side below {least}"

    return judge


def max_aspect(greatest: float) -> Filter:
    """Keeps images whose longer side is at most so many times the shorter."""

    def judge(look: Look) -> str | None:
        short, long = sorted((look.height, look.width))
        if long <= greatest * short:
            return None
        size = f"{look.width} x {look.height}"
        return f"is {long / short:.4g} times as long as wide ({size})"

    return judge


def min_entropy(least: float) -> Filter:
    """Keeps images whose `entropy` is at least so many bits."""

    def judge(look: Look) -> str | None:
        bits = entropy(look.thumbnail)
        return None if bits >= least else f"has {bits:.2f} bits of entropy"

    return judge


def entropy(image: np.ndarray) -> float:
    """Entropy in bits, in [0, 8], of the green levels of (H, W, 3) uint8.

    A plain area has 0, a page of text or a logo 1 to 4, a photograph 6 to 8.
    """
    counts = np.bincount(image[..., 1].ravel(), minlength=256)
    shares = counts[counts > 0] / image[..., 1].size
    return float(-(shares * np.log2(shares)).sum()) + 0.0


@dataclass(frozen=True)
class Plugin:
    """A user's filter.

    Attributes:
        name: FILE.py:function, the reason class of what it drops.
        version: 8 hex digits of the file's SHA-256.
        judge: the filter.
    """

    name: str
    version: str
    judge: Filter


def load_plugin(spec: str) -> Plugin:
    """Opens `FILE.py:function` or `FILE.py:function:LEAST`.

    The function takes the image (H, W, 3) uint8, read-only, and its `Record`.
    It returns whether to keep it, or (keep, reason), or a score; a score needs
    LEAST, the lowest that is kept. It is called from many threads. The file is
    run: only name one that you trust.

    Raises:
        UserError: there is no such file or function, the file fails when run,
            or LEAST is no number.
    """
    file_name, _, rest = spec.rpartition(".py:")
    name, _, text = rest.partition(":")
    path = Path(f"{file_name}.py")
    if not file_name or not name:
        raise UserError(
            f"filter {spec!r} is not understood: write FILE.py:function, or "
            "FILE.py:function:LEAST where it returns a score"
        )
    least = _number(spec, text) if text else None
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"filter file {path} cannot be read ({error.strerror}): check the "
            "path before the colon"
        ) from error
    function = getattr(_run(path), name, None)
    if not callable(function):
        raise UserError(f"filter file {path} has no function {name!r}")
    short = f"{path.name}:{name}"
    version = hashlib.sha256(source).hexdigest()[:8]
    return Plugin(short, version, partial(_judge, function, short, least))


def _number(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"filter {spec!r} ends in {text!r}, which is no number: write the "
            "least score that is kept there"
        )
    return value


def _run(path: Path) -> Any:
    """The file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is a program: anything may be wrong
        first = " ".join(str(error).split())
        raise UserError(
            f"filter file {path}: {type(error).__name__}: {first[:300]}"
        ) from error
    return module


def _judge(
    function: Callable[[np.ndarray, Record], Any],
    name: str,
    least: float | None,
    look: Look,
) -> str | None:
    """What a user's function says; whatever it raises ends the pass."""
    pixels = look.pixels().view()
    pixels.setflags(write=False)
    try:
        said = function(pixels, look.record)
    except Exception as error:
        first = " ".join(str(error).split())
        raise UserError(
            f"filter {name} failed on {look.record.name} "
            f"({type(error).__name__}: {first[:300]}): mend the function"
        ) from error
    if isinstance(said, tuple) and len(said) == 2:
        return None if said[0] else str(said[1])
    if isinstance(said, bool | np.bool_):
        return None if said else "was refused"
    try:
        score = float(said)
    except (TypeError, ValueError):
        score = None
    if score is None or least is None:
        raise UserError(
            f"filter {name} returned {said!r:.80} for {look.record.name}: it "
            "returns (keep, reason), or a score with the least one kept after "
            f"the function's name, as in {name}:0.5"
        )
    # Not "<": a score that is no number keeps nothing.
    return None if score >= least else f"scores {score:.4g}, below {least:g}"
