"""Output folder: its plan, stored before the first shard, and its manifest."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from i2i_prior.data.broken import BrokenLimit
from i2i_prior.data.examples import Field, Layout
from i2i_prior.data.manifest import (
    DROPPED,
    MANIFEST,
    PLAN,
    Plan,
    Shard,
    content_hash,
)
from i2i_prior.data.prepare.shards import Outcome, read_outcome
from i2i_prior.errors import UserError
from i2i_prior.io import files


def fields_of(
    arrays: tuple[Field, ...], image: bool, further: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Fields of an example in order, with `arrays` of the networks, and with
    the image and the `further` images of these names if they are stored."""
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

    Returns True if the folder is complete. UserError if it holds other files,
    or those of another plan; OSError of the disk.
    """
    folder = files.local_path(folder)
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


class Tally(BrokenLimit):
    """Limit on the broken records of all shards, see `BrokenLimit`."""

    def __init__(self, max_broken: float, total: int) -> None:
        advice = (
            "raise --max-broken and run the command again, which goes on, or "
            "repair the source and choose another --out"
        )
        super().__init__(max_broken, total, advice)

    def add(self, outcome: Outcome) -> None:
        """Counts a shard."""
        broken = [f"{item.name} ({item.reason})" for item in outcome.broken]
        self.count(outcome.records, broken)


def finish(
    folder: Path, plan: Plan, max_broken: float, notes: Sequence[str] = ()
) -> int:
    """Writes dropped.jsonl and manifest.json, the latter last.

    `max_broken` is the greatest share of broken records, in [0, 1]; `notes` on
    the source are for the manifest. Returns the number of examples. UserError
    if too many records are broken, or none is left: the shards are kept.
    OSError of the disk.
    """
    tally = Tally(max_broken, plan.records)
    for outcome in _outcomes(folder, plan):
        tally.add(outcome)
    tally.check()
    counts: Counter[str] = Counter()
    shards = []
    with (
        files.atomic_path(folder / DROPPED) as part,
        part.open("w", encoding="utf-8") as file,
    ):
        for shard, outcome in enumerate(_outcomes(folder, plan)):
            file_name, size = plan.file(shard), outcome.bytes
            shards.append(Shard(file_name, outcome.count, size, outcome.sha256))
            for item in outcome.dropped:
                counts[item.kind] += 1
                row = {"name": item.name, "reason": item.reason}
                file.write(json.dumps(row) + "\n")
    total = sum(shard.count for shard in shards)
    if not total:
        raise UserError(
            f"no record of {plan.source} is left: each is named in "
            f"{folder / DROPPED}; lower --min-side or choose another source, "
            "with another --out"
        )
    manifest = plan.to_json() | {
        "count": total,
        "shards": [asdict(shard) for shard in shards],
        "dropped": dict(sorted(counts.items())),
        "notes": list(notes),
        "content_hash": content_hash(shard.sha256 for shard in shards),
    }
    files.write_json(folder / MANIFEST, manifest)
    tidy(folder)
    return total


def tidy(folder: Path) -> None:
    """Removes the files of an unfinished folder."""
    for path in folder.glob("data-*-of-*.json"):
        path.unlink(missing_ok=True)
    (folder / PLAN).unlink(missing_ok=True)
    files.remove_partial(folder)


def _outcomes(folder: Path, plan: Plan) -> Iterator[Outcome]:
    """Yields the outcome of each shard, one in memory at a time."""
    for shard in range(plan.shard_count):
        outcome = read_outcome(folder, plan, shard)
        if outcome is None:
            raise UserError(
                f"{folder / plan.file(shard)} has gone while the folder was "
                "prepared; run the same command again, which makes it again"
            )
        yield outcome
