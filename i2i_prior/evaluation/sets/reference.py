"""Sides of a comparison, from images or from a statistics file.

Collected statistics are kept in the user's cache folder. Their key is a hash
of everything that they depend on: the images' state on the disk, the
extractor's identity, this program's version and code. So a cached file is
never stale. (The factor of the covariance is not kept: to compute it takes
hardly longer than reading it would.)
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.sets.collect import Collected, collect
from i2i_prior.evaluation.sets.image_sets import ImageSet, open_images
from i2i_prior.evaluation.sets.statistics_files import (
    has_images,
    is_statistics,
    read_statistics,
    save_statistics,
)
from i2i_prior.io.files import user_cache
from i2i_prior.version import __version__

_VERSION = 1  # of the stored files, and of the code that computes them


def open_place(
    place: str | os.PathLike[str],
    *,
    size: int | None = None,
    num: int | None = None,
    skip_broken: bool = False,
) -> ImageSet | Path:
    """Opens images without reading them, or finds a statistics file.

    Arguments and errors are those of `open_images`.
    """
    if not is_statistics(place):
        return open_images(place, size=size, num=num, skip_broken=skip_broken)
    if num is not None:
        raise UserError(
            f"{place} holds statistics, of which no {num} images can be "
            "taken; leave --num out, or give the images."
        )
    return Path(place)


def open_side(
    place: ImageSet | Path | str,
    extractor: Extractor,
    *,
    size: int | None = None,
    moments: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    blocks: int = 1,
    cached: bool = True,
    batch_size: int = 32,
    progress: Callable[[int], Any] | None = None,
) -> Collected:
    """Reads or collects the statistics and features of a place.

    All processes of a run call it, and share the work.

    Args:
        place: of `open_place`, or its argument.
        size: see `open_images`, for a place that is not open yet; not used
            for statistics.
        moments, keep, blocks: see `collect`. Features of a statistics file
            are those of the images in it, as in ADM's files.
        cached: reads and writes the cache of statistics, which has neither
            features nor blocks.
        batch_size, progress: see `collect`.

    UserError where nothing usable is there, or it does not fit the extractor.
    """
    moments = (extractor.first,) if moments is None else tuple(moments)
    if not isinstance(place, ImageSet):
        place = open_place(place, size=size)
    side = None
    if isinstance(place, Path):
        side = read_statistics(place, extractor)
        missing = [tap for tap in moments if tap not in side.statistics]
        if missing:
            raise UserError(
                f"{place} has no statistics '{missing[0]}'; give the images, "
                "or leave out the metrics that need them."
            )
        if not keep:
            return side
        if not has_images(place):
            raise UserError(
                f"{place} has statistics and no images, and some of these "
                "metrics need each image's features; give the images, or ask "
                "for fid or fd only."
            )
        images, moments, cached = open_images(place), (), False
    else:
        images = place
    path = None
    if cached and not keep and blocks == 1:
        path = _cache_path(images, extractor, moments)
        if kept := _read_cache(path, images, extractor):
            return kept

    share = jax.process_index(), runtime.count()
    here = images if share[1] == 1 else images.share(*share)
    made = collect(
        here.batches(),
        extractor,
        batch_size=batch_size,
        keep=keep,
        moments=moments,
        blocks=blocks,
        share=share,
        progress=progress,
    )
    if side is not None:
        side.features = made.features
        return side
    texts = runtime.allgather_text(
        "naming broken images", json.dumps(here.broken)
    )
    images.broken = [name for text in texts for name in json.loads(text)]
    made.provenance = provenance(images, extractor)
    if path is not None:
        # Without a cache that can be written nothing is kept.
        with contextlib.suppress(UserError):
            save_statistics(path, made)
    return made


def _read_cache(
    path: Path, images: ImageSet, extractor: Extractor
) -> Collected | None:
    """Statistics of the cache; None unless all processes have them."""
    found = None
    # A file that cannot be read is made again.
    with contextlib.suppress(UserError):
        found = read_statistics(path, extractor)
    if runtime.any_process("looking for statistics", found is None):
        return None
    assert found is not None
    found.provenance |= {"file": images.place, "cached": True}
    return found


def provenance(images: ImageSet, extractor: Extractor | None) -> dict[str, Any]:
    """Origin of statistics, as JSON values."""
    facts: dict[str, Any] = {
        "file": images.place,
        "format": "images",
        "identity": extractor and dict(extractor.identity),
        "resized_to": images.size,
        "version": __version__,
    }
    if images.broken:
        facts["broken"] = images.broken
        facts["note"] = (
            f"{len(images.broken)} of {len(images)} images of {images.place} "
            f"were left out, the first being {images.broken[0]}"
        )
    return facts


def _cache_path(
    images: ImageSet, extractor: Extractor, moments: tuple[str, ...]
) -> Path:
    facts = {
        "version": [_VERSION, __version__],
        "images": images.state(),
        "extractor": [extractor.name, dict(extractor.identity)],
        "taps": moments,
    }
    text = json.dumps(facts, sort_keys=True)
    name = f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
    return user_cache("statistics", name)
