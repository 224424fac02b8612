"""Manifest of a finished folder, and removal of its temporary files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from i2i_prior.data.broken import BrokenLimit
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

    Args:
        folder, plan: of the shards.
        max_broken: greatest share of broken records, in [0, 1].
        notes: on the source, for the manifest.

    Returns:
        the number of examples.

    Raises:
        UserError: too many records are broken, or none is left; the shards
            are kept.
        OSError: of the disk.
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
            shards.append(
                Shard(
                    plan.file(shard),
                    outcome.count,
                    outcome.bytes,
                    outcome.sha256,
                )
            )
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
