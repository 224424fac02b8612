"""When all shards are there: the manifest, and the scaffolding taken down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from i2i_prior.data.manifest import DROPPED, MANIFEST, PLAN, content_hash
from i2i_prior.data.prepare.examples import Dropped
from i2i_prior.data.prepare.plan import Plan
from i2i_prior.data.prepare.shards import Outcome, read_outcome
from i2i_prior.errors import UserError
from i2i_prior.io import files

_NAMED = 3  # records named in an error


class Tally:
    """How many records are broken, and whether that is too many.

    Args:
        max_broken: greatest share of broken records, in [0, 1].
        total: records of the source.
    """

    def __init__(self, max_broken: float, total: int) -> None:
        self._max_broken, self._total = max_broken, total
        self.records = self.broken = 0
        self._first: list[Dropped] = []

    def add(self, outcome: Outcome) -> None:
        """Counts a shard."""
        broken = outcome.broken
        self.records += outcome.records
        self.broken += len(broken)
        self._first += broken[: _NAMED - len(self._first)]

    def check(self) -> None:
        """Raises UserError once too many of all records are broken."""
        if self.broken <= self._max_broken * self._total:
            return
        so_far = self.records < self._total
        whole = f" of {self._total} in all" if so_far else ""
        named = ", ".join(f"{d.name} ({d.reason})" for d in self._first)
        raise UserError(
            f"{self.broken} of {self.records} records are broken, more than "
            f"the share of {self._max_broken:g} allowed{whole}, the first "
            f"being {named}: raise --max-broken and run the command again, "
            "which goes on, or mend the source and choose another --out"
        )


def finish(
    folder: Path, plan: Plan, max_broken: float, notes: Sequence[str] = ()
) -> int:
    """Writes dropped.jsonl and manifest.json, the latter last.

    Args:
        folder, plan: what was made.
        max_broken: greatest share of broken records, in [0, 1].
        notes: on the source, for the manifest.

    Returns:
        how many examples there are.

    Raises:
        UserError: too many records are broken, or none is left; the shards
            stay.
        OSError: of the disk.
    """
    tally = Tally(max_broken, plan.records)
    for outcome in _outcomes(folder, plan):
        tally.add(outcome)
    tally.check()
    counts: Counter[str] = Counter()
    shards = []
    with (
        files.atomic_path(folder / DROPPED) as beside,
        beside.open("w", encoding="utf-8") as file,
    ):
        for shard, outcome in enumerate(_outcomes(folder, plan)):
            shards.append(
                {
                    "file": plan.file(shard),
                    "count": outcome.count,
                    "bytes": outcome.bytes,
                    "sha256": outcome.sha256,
                }
            )
            for item in outcome.dropped:
                counts[item.kind] += 1
                row = {"name": item.name, "reason": item.reason}
                file.write(json.dumps(row) + "\n")
    total = sum(outcome.count for outcome in _outcomes(folder, plan))
    if not total:
        raise UserError(
            f"no record of {plan.source} is left: each is named in "
            f"{folder / DROPPED}; lower --min-side or choose another source, "
            "with another --out"
        )
    digest = content_hash(str(shard["sha256"]) for shard in shards)
    manifest = plan.to_json() | {
        "count": total,
        "shards": shards,
        "dropped": dict(sorted(counts.items())),
        "notes": list(notes),
        "content_hash": digest,
    }
    files.write_json(folder / MANIFEST, manifest)
    tidy(folder)
    return total


def tidy(folder: Path) -> None:
    """Removes what only an unfinished folder needs."""
    for path in folder.glob("data-*-of-*.json"):
        path.unlink(missing_ok=True)
    (folder / PLAN).unlink(missing_ok=True)
    files.remove_partial(folder)


def _outcomes(folder: Path, plan: Plan) -> Iterator[Outcome]:
    """Of all shards, one in memory at a time."""
    for shard in range(plan.shards):
        outcome = read_outcome(folder, plan, shard)
        if outcome is None:
            raise UserError(
                f"{folder / plan.file(shard)} has gone while the folder was "
                "prepared; run the same command again, which makes it anew"
            )
        yield outcome
