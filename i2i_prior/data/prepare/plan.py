"""Plan of an output folder, stored in it before the first shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from i2i_prior.data.examples import Field, Layout
from i2i_prior.data.manifest import MANIFEST, PLAN, Plan
from i2i_prior.errors import UserError
from i2i_prior.io import files


def fields_of(
    arrays: tuple[Field, ...], image: bool, further: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Fields of an example, in order.

    Args:
        arrays: of the networks.
        image: True to store the image's bytes.
        further: names of further images.
    """
    fields = [
        *arrays,
        Field("size", "array", "int32", (2,)),
        Field("name", "text"),
        *[Field("image", "bytes")] * image,
        Field("json", "json"),
        *[Field("images", "json")] * bool(further),
        *(Field(f"images/{i}", "bytes") for i in range(len(further))),
    ]
    return Layout(fields).to_json()


def claim(folder: Path, plan: Plan) -> bool:
    """Starts a folder with a plan, or resumes one with the same plan.

    Returns:
        True if the folder is complete.

    Raises:
        UserError: it holds other files, or those of another plan.
        OSError: of the disk.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a folder")
    done = (folder / MANIFEST).exists()
    found = _read(folder / (MANIFEST if done else PLAN))
    if found is None:
        there = folder.iterdir() if folder.is_dir() else ()
        if any(not path.name.startswith(".") for path in there):
            raise UserError(
                f"--out {folder} is not empty and nothing that i2i-prior "
                "prepare began; choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
    differing = _differing(found, plan) if found is not None else ""
    # Without a shard the plan of a killed run may be replaced.
    if differing and (done or next(folder.glob("data-*"), None)):
        raise UserError(
            f"{folder} was {'made' if done else 'begun'} otherwise "
            f"({differing}); choose another --out, or the same options and "
            "source"
        )
    if not done and (found is None or differing):
        files.write_json(folder / PLAN, plan.to_json())
    return done


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); choose another --out"
        ) from error
    return found if isinstance(found, dict) else {}


def _differing(found: dict[str, Any], plan: Plan) -> str:
    """The first differences from the plan, as text."""
    there, here = _flat(found), _flat(plan.to_json())
    words = [
        f"{name} {there.get(name)!r} there, {here.get(name)!r} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]
    return "; ".join(words[:3])


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    """Values that shape the result, by short names for messages."""
    flat: dict[str, Any] = {}
    for name in ("format", *Plan.__dataclass_fields__):
        value = plan.get(name)
        if name == "fields":
            flat[name] = [f.get("name") for f in value or []]
        elif isinstance(value, dict):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        # The fingerprint is the same wherever a source is mounted.
        elif name != "source":
            flat[name] = value
    return flat
