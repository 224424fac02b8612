"""Work done ahead, in threads, and handed over in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

THREADS = min(16, os.cpu_count() or 1)


def in_order(
    function: Callable[[In], Out],
    items: Iterable[In],
    ahead: int,
    threads: int = THREADS,
) -> Generator[Out]:
    """function(item) of each item, computed while earlier ones are in use.

    Args:
        function: called in any thread; what it raises comes out here, in its
            turn.
        items: taken one by one in the caller's thread.
        ahead: results that wait at most.
        threads: at once.
    """
    rest = iter(items)
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in islice(rest, ahead):
                waiting.append(pool.submit(function, item))
            while waiting:
                done = waiting.popleft().result()
                for item in islice(rest, 1):
                    waiting.append(pool.submit(function, item))
                yield done
        finally:
            for future in waiting:
                future.cancel()
