"""The run directory: whose it is, and the small files in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.config import RESUMABLE, config_hash, flatten, from_flat
from i2i_prior.errors import FullDiskError, UserError
from i2i_prior.io import disk, files

# What `i2i-prior import` puts into a run directory instead of checkpoints.
WEIGHTS = "weights.safetensors"


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: readers see the old file or the new.

    Raises:
      UserError: where the disk is full or the place cannot be written.
    """
    remedy = "free space or choose another workdir"
    with disk.write_errors(path, remedy, FullDiskError):
        files.write_json(path, value)


def read_json(path: Path) -> Any:
    """Reads a file `write_json` wrote.

    Raises:
      UserError: where it is missing or no JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); is its folder a run "
            "directory?"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error


def newest_checkpoint(workdir: Path) -> int | None:
    """The newest complete checkpoint, None for none; Orbax is not asked."""
    folder = Path(workdir) / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    return max(steps, default=None)


def check(workdir: Path, config: ConfigDict) -> None:
    """Whether a run of this config may go on, or begin, in the workdir.

    Fields that do not shape what is learned (`config.RESUMABLE`) may differ.

    Raises:
      UserError: where the workdir holds a run of another config, or is a
        folder with other things in it.
    """
    workdir = Path(workdir)
    file = workdir / "config.json"
    if (workdir / WEIGHTS).exists():
        raise UserError(
            f"workdir {workdir} holds imported weights; train in another "
            f"workdir, with --config.train.init_from={workdir}"
        )
    if file.exists():
        theirs = flatten(load_config(workdir))
        ours = flatten(config)
        differing = [
            f"{name} {theirs[name]!r} there, {ours[name]!r} here"
            for name in ours
            if name not in RESUMABLE and theirs[name] != ours[name]
        ]
        if differing:
            more = f" and {len(differing) - 3} more" * (len(differing) > 3)
            raise UserError(
                f"workdir {workdir} holds a run of another config "
                f"({'; '.join(differing[:3])}{more}); choose another "
                "--workdir or the same config"
            )
    elif workdir.is_file():
        raise UserError(f"workdir {workdir} is a file; choose a folder")
    elif workdir.is_dir() and any(
        not name.name.startswith(".") for name in workdir.iterdir()
    ):
        raise UserError(
            f"workdir {workdir} is not empty and not a run directory (it has "
            "no config.json); choose another"
        )


def check_data(workdir: Path, fingerprint: str) -> None:
    """Whether the run in the workdir, if any, has learnt from these data.

    Args:
      workdir: the run directory.
      fingerprint: of the source, as metadata.json has it.

    Raises:
      UserError: where it has learnt from others.
    """
    file = Path(workdir) / "metadata.json"
    before = read_json(file).get("data_fingerprint") if file.exists() else None
    if before not in (None, fingerprint):
        raise UserError(
            f"the images of the run in {workdir} have changed since "
            f"(fingerprint {before} then, {fingerprint} now); bring them back, "
            "or begin a new run with its weights, in another workdir, with "
            f"--config.train.init_from={workdir}"
        )


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes the workdir this config's, once `check` has passed.

    Raises:
      UserError: where it cannot be written.
    """
    document = {"config": flatten(config), "hash": config_hash(config)}
    write_json(Path(workdir) / "config.json", document)


def load_config(workdir: Path) -> ConfigDict:
    """The config a run directory was made with.

    Raises:
      UserError: where there is none.
    """
    document = read_json(Path(workdir) / "config.json")
    try:
        return from_flat(document["config"])
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{workdir}/config.json is not a run's config ({error})"
        ) from error
