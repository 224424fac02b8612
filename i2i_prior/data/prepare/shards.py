"""One shard: written beside, renamed, and only then said to be there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i_prior.data.examples import Layout
from i2i_prior.data.prepare.examples import Dropped
from i2i_prior.data.prepare.plan import Plan
from i2i_prior.io import disk, files

# A group of one: a random read costs one pread. The images are compressed
# already, and so nearly is the noise in latents.
OPTIONS = "group_size:1,uncompressed"

# Called with how many more records are done; ends the work by an exception.
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """What became of the records of a shard.

    Attributes:
        count, bytes, sha256: of its file.
        dropped: in the order of the source.
    """

    count: int
    bytes: int
    sha256: str
    dropped: tuple[Dropped, ...]

    @property
    def records(self) -> int:
        """How many it was made from."""
        return self.count + len(self.dropped)

    @property
    def broken(self) -> list[Dropped]:
        """Those of `dropped` that nobody wished away."""
        return [dropped for dropped in self.dropped if dropped.broken]


def write_shard(
    folder: Path,
    plan: Plan,
    shard: int,
    made: Iterable[dict[str, Any] | Dropped],
    tick: Tick,
) -> Outcome:
    """Writes the examples of a shard and its side file.

    Args:
        made: of each record of the shard, in order.
        tick: called for each of them, and before the shard takes its name.

    Raises:
        OSError: of the disk; nothing half-written is left.
    """
    path = folder / plan.file(shard)
    with files.atomic_path(path) as beside:
        try:
            count, dropped = _write(beside, plan.layout, made, tick)
        except RuntimeError as error:  # how array_record says everything
            raise disk.disk_error(error, path) or error from error
        with beside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        outcome = Outcome(count, beside.stat().st_size, digest, tuple(dropped))
        tick(0)
    rows = [[item.name, item.reason] for item in dropped]
    said = {**vars(outcome), "dropped": rows}
    files.write_json(folder / plan.side_file(shard), said)
    return outcome


def _write(
    path: Path,
    layout: Layout,
    made: Iterable[dict[str, Any] | Dropped],
    tick: Tick,
) -> tuple[int, list[Dropped]]:
    # Not at the top: whoever reads a plan need not load it.
    from array_record.python.array_record_module import ArrayRecordWriter

    count, dropped = 0, []
    writer = ArrayRecordWriter(str(path), OPTIONS)
    try:
        for item in made:
            if isinstance(item, Dropped):
                dropped.append(item)
            else:
                writer.write(layout.pack(item))
                count += 1
            tick(1)
    finally:
        writer.close()
    return count, dropped


def read_outcome(folder: Path, plan: Plan, shard: int) -> Outcome | None:
    """Of a finished shard; None where it has to be made (again)."""
    try:
        said = json.loads((folder / plan.side_file(shard)).read_text())
        size = (folder / plan.file(shard)).stat().st_size
        dropped = tuple(Dropped(*row) for row in said.pop("dropped"))
        outcome = Outcome(**said, dropped=dropped)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return outcome if outcome.bytes == size else None
