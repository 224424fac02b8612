"""Run directory: its config, its JSON files, and checks before it is used."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.config import RESUMABLE, config_hash, flatten, from_flat
from i2i_prior.errors import UserError
from i2i_prior.io import disk, files

# File that `i2i-prior import` writes instead of checkpoints.
WEIGHTS = "weights.safetensors"


def write_json(
    path: Path, value: Any, remedy: str = "choose another workdir"
) -> None:
    """Writes JSON atomically: readers see the old file or the new one.

    Raises UserError, of which `remedy` is the advice, where the disk is full
    or the folder is not writable.
    """
    with disk.write_errors(path, remedy):
        files.write_json(path, value)


def read_json(path: Path) -> Any:
    """Reads a JSON file; UserError if it is missing or not JSON."""
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
    """Returns the newest complete step, None without one; loads no Orbax."""
    folder = Path(workdir) / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    return max(steps, default=None)


def check(workdir: Path, config: ConfigDict) -> None:
    """Checks that a run of this config may begin or resume in the workdir.

    Fields that do not change what is learned (`config.RESUMABLE`) may differ.

    Raises:
      UserError: the workdir holds imported weights, a run of another config,
        or other files.
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
    """Checks that a run in the workdir, if any, was trained on these data.

    Raises:
      UserError: its fingerprint, of metadata.json, is another.
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
    """Writes config.json into the workdir; `check` comes before."""
    document = {"config": flatten(config), "hash": config_hash(config)}
    write_json(Path(workdir) / "config.json", document)


def load_config(workdir: Path) -> ConfigDict:
    """Reads the config of a run directory; UserError if there is none."""
    document = read_json(files.local_path(workdir) / "config.json")
    try:
        return from_flat(document["config"])
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{workdir}/config.json is not a run's config ({error})"
        ) from error
