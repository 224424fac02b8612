"""Work in threads with results in order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def map_in_order(
    function: Callable[[In], Out],
    items: Iterable[In],
    ahead: int,
    threads: int = 0,
) -> Generator[Out]:
    """Results function(item) in order, computed while earlier ones are used.

    Items are taken one by one in the caller's thread; `ahead` results wait at
    most. An exception of the function, which any thread calls, is raised here,
    in the order of the items. Closing the iterator ends its `threads`: 0 for
    two a core, since some wait for the disk.
    """
    pool = ThreadPoolExecutor(threads or 2 * (os.cpu_count() or 1))
    rest = iter(items)
    waiting: deque[Future[Out]] = deque()
    try:
        for item in islice(rest, ahead):
            waiting.append(pool.submit(function, item))
        while waiting:
            done = waiting.popleft().result()
            for item in islice(rest, 1):
                waiting.append(pool.submit(function, item))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
