"""Files of validation losses: tables of examples and noise levels.

RUN/validation/STEP.npz holds each example's losses, STEP.json their means.
All runs of the same held-out images see the same noise, so two of them are
compared example by example. Nothing here imports JAX.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import write_bytes

FOLDER = "validation"
KINDS = ("ema", "raw")


@dataclass(frozen=True)
class Losses:
    """Validation losses of one checkpoint, raw or EMA."""

    loss: np.ndarray  # of training, float32 (N, T): N examples, T times
    mse: np.ndarray  # mean squared error of the prediction, float32 (N, T)

    def uniform(self) -> np.ndarray:
        """Mean squared error with all times weighted equally, float64 (N,)."""
        return self.mse.astype(np.float64).mean(axis=1)

    def training(self, shares: np.ndarray) -> np.ndarray:
        """Training loss, float64 (N,), with times weighted by their shares in
        training, (T,), see `stratum_shares`."""
        return self.loss.astype(np.float64) @ shares


def document(workdir: Path, step: int) -> Path:
    """Path of STEP.json."""
    return workdir / FOLDER / f"{step}.json"


def estimate(values: np.ndarray) -> tuple[float, float]:
    """Mean of (N,) examples and its standard error."""
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(spread / np.sqrt(len(values)))


def _estimates(key: str, values: np.ndarray) -> dict[str, float]:
    mean, error = estimate(values)
    return {key: mean, f"{key}_standard_error": error}


def scalars(tables: dict[str, Losses], shares: np.ndarray) -> dict[str, float]:
    """Scalars for metrics.jsonl: "validation/KIND_MEAN" and, of each,
    "..._standard_error"; KIND is ema or raw, MEAN uniform or training."""
    found: dict[str, float] = {}
    for kind, table in tables.items():
        key = f"{FOLDER}/{kind}"
        found |= _estimates(f"{key}_uniform", table.uniform())
        found |= _estimates(f"{key}_training", table.training(shares))
    return found


def write(
    workdir: Path,
    step: int,
    tables: dict[str, Losses],
    times: np.ndarray,
    shares: np.ndarray,
    about: dict[str, Any],
) -> dict[str, float]:
    """Writes STEP.npz, then STEP.json; returns `scalars`.

    Of the tables "ema" and "raw", (T,) path times, and the probabilities of
    their strata, with facts about the images for STEP.json. UserError if they
    cannot be written.
    """
    arrays = {
        f"{kind}_{name}": getattr(table, name)
        for kind, table in tables.items()
        for name in ("loss", "mse")
    }
    content = io.BytesIO()
    np.savez(content, times=times, shares=shares, **arrays)
    file = document(workdir, step).with_suffix(".npz")
    remedy = "make the run directory writable"
    with write_errors(file, remedy):
        write_bytes(file, content.getvalue())
    levels = []
    for index, (time, share) in enumerate(zip(times, shares, strict=True)):
        level = {"time": float(time), "share": float(share)}
        for kind, table in tables.items():
            errors = table.mse[:, index].astype(np.float64)
            level |= _estimates(f"{kind}_mse", errors)
        levels.append(level)
    found = scalars(tables, shares)
    summary = {"step": step, **about, "losses": found, "levels": levels}
    write_json(document(workdir, step), summary)
    return found


def read(workdir: Path, step: int) -> dict[str, Losses]:
    """Tables of a step, "ema" and "raw"; UserError if missing or damaged."""
    file = document(workdir, step).with_suffix(".npz")
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {
                kind: Losses(stored[f"{kind}_loss"], stored[f"{kind}_mse"])
                for kind in KINDS
            }
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} holds no validation losses ({error}); evaluate the run "
            "again with --config.validation.every"
        ) from error


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of a paired difference, of (N,) losses each.

    Most of the spread over examples is due to the images and the same in both
    runs, so this is several times sharper than two standard errors.
    """
    return estimate(np.asarray(ours) - np.asarray(theirs))
