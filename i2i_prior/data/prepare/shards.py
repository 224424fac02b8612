"""Shards, each renamed when complete; all those of one process."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from i2i_prior.data.examples import Layout
from i2i_prior.data.manifest import Plan
from i2i_prior.data.prepare.encode import Encoding, encoded
from i2i_prior.data.prepare.examples import Dropped, Maker
from i2i_prior.data.prepare.workers import work
from i2i_prior.io import disk, files
from i2i_prior.io.threads import map_in_order

# A group of one: a random read costs one pread. The images are compressed
# already, and so nearly is the noise in latents.
_OPTIONS = "group_size:1,uncompressed"

# Called with the number of further records done; an exception ends the work.
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """Result of a shard."""

    count: int  # examples in its file
    bytes: int  # of its file, as the hash
    sha256: str
    dropped: tuple[Dropped, ...]  # in the order of the source

    @property
    def records(self) -> int:
        """Number of records of the source."""
        return self.count + len(self.dropped)

    @property
    def broken(self) -> list[Dropped]:
        """Dropped records that count against --max-broken."""
        return [dropped for dropped in self.dropped if dropped.broken]


def make_shards(
    folder: Path,
    plan: Plan,
    make: Maker,
    shards: Sequence[int],
    workers: int,
    tick: Tick,
    encoding: Encoding | None = None,
) -> Generator[Outcome]:
    """Yields the outcome of each shard when it is finished.

    `workers` processes make `shards`, by their numbers; with `encoding`, whose
    networks run in this process, as many threads decode. Closing the iterator
    ends them, as does an exception of `tick`. UserError if a worker process
    died; OSError of the disk.
    """
    task = partial(_make_shard, folder, plan, make)
    if encoding is None and workers > 1 and len(shards) > 1:
        yield from work(task, shards, workers, tick)
    elif encoding is None:
        yield from (task(shard, tick) for shard in shards)
    else:
        indices = itertools.chain.from_iterable(map(plan.indices, shards))
        # Two batches wait while two are on their way.
        most = max(2 * encoding.batch, 2 * workers)
        with contextlib.closing(
            map_in_order(make, indices, most, workers)
        ) as ahead:
            for shard in shards:
                mine = itertools.islice(ahead, len(plan.indices(shard)))
                examples = encoded(mine, encoding)
                yield write_shard(folder, plan, shard, examples, tick)


def _make_shard(
    folder: Path, plan: Plan, make: Maker, shard: int, tick: Tick
) -> Outcome:
    made = map(make, plan.indices(shard))
    return write_shard(folder, plan, shard, made, tick)


def write_shard(
    folder: Path,
    plan: Plan,
    shard: int,
    made: Iterable[dict[str, Any] | Dropped],
    tick: Tick,
) -> Outcome:
    """Writes the examples of a shard and its side file.

    `made` has the result of each record, in order; `tick` is called for each of
    them, and before the shard is renamed. OSError of the disk; no partial file
    is left.
    """
    path = folder / plan.file(shard)
    with files.atomic_path(path) as part:
        try:
            count, dropped = _write(part, plan.layout, made, tick)
        except RuntimeError as error:  # of array_record, for any failure
            raise disk.disk_error(error, path) or error from error
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        outcome = Outcome(count, part.stat().st_size, digest, tuple(dropped))
        tick(0)
    rows = [[item.name, item.reason] for item in dropped]
    found = {**vars(outcome), "dropped": rows}
    files.write_json(folder / plan.file(shard, "json"), found)
    return outcome


def _write(
    path: Path,
    layout: Layout,
    made: Iterable[dict[str, Any] | Dropped],
    tick: Tick,
) -> tuple[int, list[Dropped]]:
    # Late: reading a plan does not need it.
    from array_record.python.array_record_module import ArrayRecordWriter

    count, dropped = 0, []
    with contextlib.closing(ArrayRecordWriter(str(path), _OPTIONS)) as writer:
        for item in made:
            if isinstance(item, Dropped):
                dropped.append(item)
            else:
                writer.write(layout.pack(item))
                count += 1
            tick(1)
    return count, dropped


def read_outcome(folder: Path, plan: Plan, shard: int) -> Outcome | None:
    """Outcome of a finished shard; None if it has to be made (again)."""
    try:
        found = json.loads((folder / plan.file(shard, "json")).read_text())
        size = (folder / plan.file(shard)).stat().st_size
        dropped = tuple(Dropped(*row) for row in found.pop("dropped"))
        outcome = Outcome(**found, dropped=dropped)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return outcome if outcome.bytes == size else None
