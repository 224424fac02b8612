"""Writing of all shards of one process of the command."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from i2i_prior.data.prepare.encode import Encoding, encoded
from i2i_prior.data.prepare.examples import Maker
from i2i_prior.data.prepare.plan import Plan
from i2i_prior.data.prepare.shards import Outcome, Tick, write_shard
from i2i_prior.data.prepare.workers import work
from i2i_prior.io.threads import map_in_order


@dataclass(frozen=True)
class ShardTask:
    """Function of a shard's number: writes it without networks."""

    folder: Path
    plan: Plan
    make: Maker

    def __call__(self, shard: int, tick: Tick) -> Outcome:
        made = map(self.make, self.plan.indices(shard))
        return write_shard(self.folder, self.plan, shard, made, tick)


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

    Closing the iterator ends its processes.

    Args:
        make: function of a record.
        shards: their numbers.
        workers: processes; with an encoding, threads that decode.
        tick: an exception ends the work.
        encoding: networks, which run in this process.

    Raises:
        UserError: a worker process died.
        OSError: of the disk.
    """
    task = ShardTask(folder, plan, make)
    if encoding is not None:
        yield from _encode(task, shards, workers, tick, encoding)
    elif workers == 1 or len(shards) == 1:
        for shard in shards:
            yield task(shard, tick)
    else:
        yield from work(task, shards, workers, tick)


def _encode(
    task: ShardTask,
    shards: Sequence[int],
    threads: int,
    tick: Tick,
    encoding: Encoding,
) -> Iterator[Outcome]:
    plan = task.plan
    indices = itertools.chain.from_iterable(map(plan.indices, shards))
    # Two batches wait while two are on their way.
    most = max(2 * encoding.batch, 2 * threads)
    ahead = map_in_order(task.make, indices, most, threads)
    with contextlib.closing(ahead):
        for shard in shards:
            mine = itertools.islice(ahead, len(plan.indices(shard)))
            examples = encoded(mine, encoding)
            yield write_shard(task.folder, plan, shard, examples, tick)
