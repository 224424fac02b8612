"""The validation losses of a run: tables of examples and noise levels.

RUN/validation/STEP.npz holds each example's losses, STEP.json what they come
to. All runs of the same held-out images see the same noise, so two of them
are compared example by example. Nothing here imports JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.errors import FullDiskError, UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path

FOLDER = "validation"
KINDS = ("ema", "raw")


@dataclass(frozen=True)
class Losses:
    """Of one checkpoint, raw or EMA.

    Attributes:
      loss: what training minimises, float32 (N, T): N examples, T times.
      mse: the plain mean squared error of the prediction, likewise.
    """

    loss: np.ndarray
    mse: np.ndarray

    def uniform(self) -> np.ndarray:
        """Mean squared error over all times alike, float64 (N,)."""
        return self.mse.astype(np.float64).mean(axis=1)

    def training(self, shares: np.ndarray) -> np.ndarray:
        """The training loss over the times that training draws, float64 (N,).

        Args:
          shares: of the times in training, (T,), see `stratum_shares`.
        """
        return self.loss.astype(np.float64) @ shares


def document(workdir: Path, step: int) -> Path:
    """Where what the losses of a step come to is."""
    return workdir / FOLDER / f"{step}.json"


def estimate(values: np.ndarray) -> tuple[float, float]:
    """Mean over examples (N,) and its standard error."""
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(spread / np.sqrt(len(values)))


def scalars(tables: dict[str, Losses], shares: np.ndarray) -> dict[str, float]:
    """What goes to metrics.jsonl: "validation/KIND_MEAN" and, of each,
    "..._standard_error"; KIND is ema or raw, MEAN uniform or training."""
    found = {}
    for kind, table in tables.items():
        means = {
            "uniform": table.uniform(),
            "training": table.training(shares),
        }
        for name, values in means.items():
            key = f"{FOLDER}/{kind}_{name}"
            found[key], found[f"{key}_standard_error"] = estimate(values)
    return found


def write(
    workdir: Path,
    step: int,
    tables: dict[str, Losses],
    times: np.ndarray,
    shares: np.ndarray,
    about: dict[str, Any],
) -> dict[str, float]:
    """Writes STEP.npz, then STEP.json; gives back `scalars`.

    Args:
      workdir: the run directory.
      step: of the checkpoint.
      tables: "ema" and "raw".
      times, shares: (T,) path times, and how often training draws them.
      about: what the images were, as plain values.

    Raises:
      UserError: where they cannot be written.
    """
    folder = workdir / FOLDER
    arrays = {
        f"{kind}_{name}": getattr(table, name)
        for kind, table in tables.items()
        for name in ("loss", "mse")
    }
    with write_errors(
        f"{folder}/{step}.npz",
        "free space and run the same command again",
        FullDiskError,
    ):
        folder.mkdir(exist_ok=True)
        with (
            atomic_path(folder / f"{step}.npz") as beside,
            beside.open("wb") as f,
        ):
            np.savez(f, times=times, shares=shares, **arrays)
    found = scalars(tables, shares)
    levels = [
        {
            "time": float(time),
            "share": float(share),
            **{
                f"{kind}_{name}": value
                for kind, table in tables.items()
                for name, value in zip(
                    ("mse", "mse_standard_error"),
                    estimate(table.mse[:, place].astype(np.float64)),
                    strict=True,
                )
            },
        }
        for place, (time, share) in enumerate(zip(times, shares, strict=True))
    ]
    whole = {"step": step, **about, "losses": found, "levels": levels}
    write_json(document(workdir, step), whole)
    return found


def read(workdir: Path, step: int) -> dict[str, Losses]:
    """The tables of a step, "ema" and "raw".

    Raises:
      UserError: where they are missing or damaged.
    """
    file = workdir / FOLDER / f"{step}.npz"
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
    """Mean and standard error of a difference, example by example.

    Most of the spread over examples is the images' own and the same in both
    runs, so this is several times sharper than two standard errors.

    Args:
      ours, theirs: (N,), of `Losses.uniform` or `training`, the same images.
    """
    return estimate(np.asarray(ours) - np.asarray(theirs))
