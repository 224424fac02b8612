"""Options, and filters: functions that give a reason to drop a record, or None.

Built in are the least side, the greatest aspect ratio and the least entropy;
others are functions of a user's file. A filter runs in many threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from i2i_prior.data.curation.duplicates import MAX_DISTANCE
from i2i_prior.data.record import Record
from i2i_prior.errors import UserError
from i2i_prior.io.python_files import described, running

PHASH = "phash"
THUMBNAIL = 64  # side of `FilterInput.thumbnail`


@dataclass(frozen=True)
class CurateOptions:
    """Criteria for dropping records; 0, "" and () drop none."""

    min_side: int = 0  # least side in pixels
    max_aspect: float = 0.0  # greatest longer side over shorter side
    min_entropy: float = 0.0  # of the levels in bits, below 8
    near_duplicates: str = ""  # "phash", or an .npy of (N, D) embeddings
    threshold: float | None = None  # 6 bits or a cosine of 0.95 if None
    filters: tuple[str, ...] = ()  # FILE.py:function[:LEAST], `load_plugin`
    max_broken: float = 0.01  # greatest share, see `BrokenLimit`

    def __post_init__(self) -> None:
        if self.min_side < 0:
            raise UserError(
                f"the least side is {self.min_side}: give 1 or more"
            )
        if self.max_aspect and not self.max_aspect >= 1:
            raise UserError(
                f"the greatest aspect ratio is {self.max_aspect:g}, longer "
                "over shorter side: give 1 or more"
            )
        if not 0 <= self.min_entropy < 8:
            raise UserError(
                f"the least entropy is {self.min_entropy:g} bits: give 0 to 8"
            )
        if not 0 <= self.max_broken <= 1:
            raise UserError(
                f"the greatest share of broken records is {self.max_broken:g}: "
                "give 0 to 1"
            )
        if self.threshold is not None and not self.near_duplicates:
            raise UserError(
                "a threshold is only for near duplicates: give phash or an "
                "embedding file with it"
            )
        if self.threshold is None:
            return
        if self.near_duplicates != PHASH and not 0 < self.threshold <= 1:
            raise UserError(
                f"the threshold of embeddings is {self.threshold:g}: give a "
                "cosine above 0 and at most 1; 0.95 is usual"
            )
        bits = range(MAX_DISTANCE + 1)
        if self.near_duplicates == PHASH and self.threshold not in bits:
            raise UserError(
                f"the threshold of perceptual hashes is {self.threshold:g}: "
                f"give whole bits from 0 to {MAX_DISTANCE}; 4 is strict, 6 "
                "usual, 10 lenient"
            )

    def near_threshold(self) -> float:
        """The threshold of near duplicates, in bits or as a cosine."""
        if self.threshold is not None:
            return self.threshold
        return 6 if self.near_duplicates == PHASH else 0.95


@dataclass(frozen=True)
class FilterInput:
    """Input of a filter."""

    record: Record
    height: int  # in pixels, upright
    width: int
    thumbnail: np.ndarray  # the whole image squeezed to (64, 64, 3) uint8
    pixels: Callable[[], np.ndarray]  # decodes it to (H, W, 3) uint8


# FilterInput -> reason to drop the record, completing "the image ...", or None.
Filter = Callable[[FilterInput], str | None]


def min_side(image: FilterInput, limit: int) -> str | None:
    """Refuses an image by the shorter side in pixels."""
    if min(image.height, image.width) >= limit:
        return None
    return f"has {image.width} x {image.height} pixels, a side below {limit}"


def max_aspect(image: FilterInput, limit: float) -> str | None:
    """Refuses an image by the longer side over the shorter side."""
    short, long = sorted((image.height, image.width))
    if long <= limit * short:
        return None
    size = f"{image.width} x {image.height}"
    return f"is {long / short:.4g} times as long as wide ({size})"


def min_entropy(image: FilterInput, limit: float) -> str | None:
    """Refuses an image by `entropy` in bits."""
    bits = entropy(image.thumbnail)
    return None if bits >= limit else f"has {bits:.2f} bits of entropy"


def entropy(image: np.ndarray) -> float:
    """Entropy in bits, in [0, 8], of the green levels of (H, W, 3) uint8.

    A plain area has 0, a page of text or a logo 1 to 4, a photograph 6 to 8.
    """
    counts = np.bincount(image[..., 1].ravel(), minlength=256)
    shares = counts[counts > 0] / image[..., 1].size
    return float(-(shares * np.log2(shares)).sum()) + 0.0


# Option -> function of an image and the option's value.
_BUILT_IN: dict[str, Callable[..., str | None]] = {
    "min_side": min_side,
    "max_aspect": max_aspect,
    "min_entropy": min_entropy,
}


def filters_of(
    options: CurateOptions, plugins: Iterable[Plugin]
) -> dict[str, Filter]:
    """Reason -> filter, in the order of application."""
    filters: dict[str, Filter] = {}
    for name, judge in _BUILT_IN.items():
        if limit := getattr(options, name):
            filters[name] = partial(judge, limit=limit)
    for plugin in plugins:
        if plugin.name in filters:
            raise UserError(
                f"filter {plugin.name} is given twice, with one name for what "
                "both drop: rename the file or the function"
            )
        filters[plugin.name] = plugin.judge
    return filters


class Plugin(NamedTuple):
    """A user's filter."""

    name: str  # FILE.py:function, the reason class of what it drops
    version: str  # 8 hex digits of the file's SHA-256
    judge: Filter


def load_plugin(spec: str) -> Plugin:
    """Opens `FILE.py:function` or `FILE.py:function:LEAST`.

    The function takes the image (H, W, 3) uint8, read-only, and its `Record`.
    It returns True to keep it, or (keep, reason), or a score; a score needs
    LEAST, the lowest that is kept. It is called from many threads. The file is
    run: only give one that you trust.

    UserError if there is no such file or function, the file fails when run, or
    LEAST is no number.
    """
    file_name, _, rest = spec.rpartition(".py:")
    name, _, text = rest.partition(":")
    path = Path(f"{file_name}.py")
    if not file_name or not name:
        raise UserError(
            f"filter {spec!r} is not understood: write FILE.py:function, or "
            "FILE.py:function:LEAST where it returns a score"
        )
    try:
        least = float(text) if text else None
        if least is not None and not math.isfinite(least):
            raise ValueError
    except ValueError:
        raise UserError(
            f"filter {spec!r} ends in {text!r}, which is no number: write the "
            "least score to keep there"
        ) from None
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"filter file {path} cannot be read ({error.strerror}): check the "
            "path before the colon"
        ) from error
    with running("filter file", path) as module:
        function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"filter file {path} has no function {name!r}")
    short = f"{path.name}:{name}"
    version = hashlib.sha256(source).hexdigest()[:8]
    return Plugin(short, version, partial(_judge, function, short, least))


def _judge(
    function: Callable[[np.ndarray, Record], Any],
    name: str,
    least: float | None,
    image: FilterInput,
) -> str | None:
    """Result of a user's function; an exception in it ends the pass."""
    pixels = image.pixels().view()
    pixels.setflags(write=False)
    try:
        result = function(pixels, image.record)
    except Exception as error:
        raise UserError(
            f"filter {name} failed on {image.record.name} "
            f"({described(error)}): correct the function"
        ) from error
    if isinstance(result, tuple) and len(result) == 2:
        return None if result[0] else str(result[1])
    if isinstance(result, bool | np.bool_):
        return None if result else "was refused"
    try:
        score = float(result)
    except (TypeError, ValueError):
        score = None
    if score is None or least is None:
        raise UserError(
            f"filter {name} returned {result!r:.80} for {image.record.name}: "
            "return (keep, reason), or a score with the least one to keep "
            f"after the function's name, as in {name}:0.5"
        )
    # Not "<", which would keep a score of NaN.
    return None if score >= least else f"scores {score:.4g}, below {least:g}"
