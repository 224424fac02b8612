"""Statistics files: our own, and those of published tools.

    own              mu, sigma, count, features, provenance (JSON); further
                     taps as mu_s, sigma_s (spatial) and mu.TAP, sigma.TAP
    ADM              mu, sigma, mu_s, sigma_s, and arr_0, images
    pytorch-fid, clean-fid, EDM, MAR    mu, sigma
    iMF              ref_mu, ref_sigma
    EDM2             a pickle, {num_images, fid: {mu, sigma}, fd_dinov2: ...}

Files of other tools do not record the preset, the weights or the images: they
are taken as they are, and a note in the result says so. Ours are refused
where anything differs.
"""

import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.statistics import (
    UNCOUNTED,
    FeatureStatistics,
)
from i2i_prior.evaluation.sets.archives import ARRAY
from i2i_prior.evaluation.sets.array_files import (
    ERRORS,
    read_arrays,
    read_pickle,
)
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path

ENDINGS = (".npz", ".pkl", ".pickle")
# Our extractors' features under EDM2's names.
_PICKLED = {"inception": "fid", "dinov2": "fd_dinov2"}
_OF_STATISTICS = ("mu", "sigma", "ref_", "count", "features", "provenance")
_MEANS = ("mu", "ref_mu")
_SYMMETRIC = 1e-6  # of the largest entry
_NOTE = "says nothing of the preset, the weights, the size of the images{more}"


def is_statistics(path: str | os.PathLike[str]) -> bool:
    """Returns True for a file of statistics rather than of images."""
    file = Path(path)
    if not file.is_file() or file.suffix.lower() not in ENDINGS:
        return False
    # A damaged file is refused with the reason when opened as images.
    return file.suffix.lower() != ".npz" or _has(file, _MEANS)


def has_images(path: str | os.PathLike[str]) -> bool:
    """Returns True for statistics that come with images, as in ADM's files."""
    return Path(path).suffix.lower() == ".npz" and _has(path, (ARRAY,))


def save_statistics(path: Path, collected: Collected) -> None:
    """Writes our own format atomically.

    The first tap is `mu` and `sigma`, which other FID tools read too.
    UserError where nothing can be written there.
    """
    taps = list(collected.statistics)
    first = collected.statistics[taps[0]]
    facts = {
        "taps": taps,
        "hash": collected.hash,
        "size": collected.size,
        **collected.provenance,
    }
    arrays: dict[str, Any] = {
        "count": np.int64(first.count),
        "features": np.str_(first.features),
        "provenance": np.str_(json.dumps(facts)),
    }
    for number, (tap, statistics) in enumerate(collected.statistics.items()):
        mean, cov = _names(tap, number)
        arrays[mean], arrays[cov] = statistics.mean, statistics.cov
    with (
        write_errors(path),
        atomic_path(path) as partial,
        partial.open("wb") as file,
    ):
        np.savez(file, **arrays)


def read_statistics(path: str | Path, extractor: Extractor) -> Collected:
    """Reads any of the formats above, as statistics of an extractor.

    UserError where the file is damaged, its numbers are no statistics of these
    features, or its recorded identity is not the extractor's.
    """
    file = Path(path)
    if file.suffix.lower() != ".npz":
        return _read_pickled(file, extractor)
    try:  # without the images, of which there may be many
        arrays = read_arrays(file, lambda name: name.startswith(_OF_STATISTICS))
    except ERRORS as error:
        raise UserError(
            f"{file} is not a readable statistics file ({error}); copy it "
            "again."
        ) from error
    read = _read_own if "provenance" in arrays else _read_published
    return read(file, arrays, extractor)


def _read_own(
    path: Path, arrays: dict[str, np.ndarray], extractor: Extractor
) -> Collected:
    try:
        facts = json.loads(str(arrays["provenance"]))
        count = int(arrays["count"])
        taps, hash_ = facts.pop("taps"), str(facts.pop("hash"))
        size, identity = facts.pop("size"), facts["identity"]
        taps = [str(tap) for tap in taps]
        size = None if size is None else (int(size[0]), int(size[1]))
        identity = None if identity is None else dict(identity)
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError),
        OverflowError,
    ) as error:
        raise UserError(
            f"{path} is a damaged statistics file ({error}); make it again."
        ) from error
    if identity is not None:  # None where it was made of a published file
        extractor.check_identity(str(path), identity)
    statistics = {}
    for number, tap in enumerate(taps):
        if tap not in extractor.taps:
            continue
        pair = _names(tap, number)
        statistics[tap] = _statistics(
            path, arrays, *pair, extractor.taps[tap], count
        )
        statistics[tap].features = f"{extractor.name}:{tap}"
    return Collected(
        statistics,
        count=None if count == UNCOUNTED else count,
        hash=hash_,
        size=size,
        provenance={**facts, "file": path.name, "format": "i2i-prior"},
    )


def _read_published(
    path: Path, arrays: dict[str, np.ndarray], extractor: Extractor
) -> Collected:
    names, kind = {extractor.first: ("mu", "sigma")}, "mu, sigma"
    if "ref_mu" in arrays:
        kind = "ref_mu, ref_sigma"
        names = {extractor.first: ("ref_mu", "ref_sigma")}
    elif "mu_s" in arrays and extractor.taps.get("spatial"):
        kind = "ADM"
        names["spatial"] = ("mu_s", "sigma_s")
    # Of earlier versions of this program, not of other tools.
    count = None
    if "count" in arrays:
        if arrays["count"].shape or arrays["count"].dtype.kind not in "iu":
            raise UserError(
                f"{path}: its count is no whole number; make it again from the "
                "images."
            )
        count = int(arrays["count"])
    return _unverified(path, kind, arrays, names, extractor, count)


def _read_pickled(path: Path, extractor: Extractor) -> Collected:
    found = read_pickle(path)
    key = _PICKLED.get(extractor.name, extractor.name)
    entry = found.get(key) if isinstance(found, dict) else None
    if not isinstance(entry, dict):
        has = ", ".join(found) if isinstance(found, dict) else "nothing"
        raise UserError(
            f"{path} has no statistics '{key}' of {extractor.name}, it has "
            f"{has}; give another file or other features."
        )
    count = found.get("num_images")
    count = int(count) if isinstance(count, int | np.integer) else None
    names = {extractor.first: ("mu", "sigma")}
    return _unverified(path, "EDM2", entry, names, extractor, count)


def _unverified(
    path: Path,
    kind: str,
    arrays: Mapping[str, Any],
    names: Mapping[str, tuple[str, str]],
    extractor: Extractor,
    count: int | None,
) -> Collected:
    """Statistics of another tool, with a note of what it does not record."""
    more = "" if count else " or how many there are"
    return Collected(
        {
            tap: _statistics(path, arrays, *pair, extractor.taps[tap], count)
            for tap, pair in names.items()
        },
        count=count,
        hash=hash_of(path),
        provenance={
            "file": path.name,
            "format": kind,
            "identity": None,
            "note": f"{path.name} {_NOTE.format(more=more)}",
        },
    )


def _has(path: str | os.PathLike[str], names: Iterable[str]) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(f"{name}.npy" in archive.namelist() for name in names)
    except (OSError, zipfile.BadZipFile):
        return False


def _names(tap: str, number: int) -> tuple[str, str]:
    suffix = "" if number == 0 else "_s" if tap == "spatial" else f".{tap}"
    return f"mu{suffix}", f"sigma{suffix}"


def _statistics(
    path: Path,
    arrays: Mapping[str, Any],
    mean_name: str,
    cov_name: str,
    dim: int,
    count: int | None,
) -> FeatureStatistics:
    """Checked moments of float32 or float64, as the tools write them."""
    mean, cov = arrays.get(mean_name), arrays.get(cov_name)

    def error(why: str) -> UserError:
        return UserError(
            f"{path}: {why}; give a statistics file of the same features, or "
            "make one from the images."
        )

    if not isinstance(mean, np.ndarray) or not isinstance(cov, np.ndarray):
        raise error(f"it lacks {mean_name} or {cov_name}")
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise error(
            f"{mean_name} {mean.shape} and {cov_name} {cov.shape} are no mean "
            "(d,) and covariance (d, d)"
        )
    if len(mean) != dim:
        raise error(f"{mean_name} has {len(mean)} numbers, not {dim}")
    if not {mean.dtype.name, cov.dtype.name} <= {"float32", "float64"}:
        raise error(f"its numbers are {mean.dtype} and {cov.dtype}")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise error(f"{mean_name} or {cov_name} holds NaN or infinity")
    cov = cov.astype(np.float64)
    largest = float(np.abs(cov).max())
    if np.abs(cov - cov.T).max() > _SYMMETRIC * largest:
        raise error(f"{cov_name} is not symmetric")
    if np.diag(cov).min() < -_SYMMETRIC * largest:
        raise error(f"{cov_name} has a negative variance")
    if count is not None and count < 1:
        raise error(f"it is of {count} images")
    cov = (cov + cov.T) / 2
    return FeatureStatistics.of_covariance(mean, cov, count)
