"""A small look-ahead of batches that are already on the devices.

Transfers are dispatched, not waited for, so that they run beside the step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

from i2i_prior.data.broken import Batch


def prefetch(
    batches: Iterator[Batch], put: Callable[[Batch], Any], depth: int
) -> Generator[tuple[Batch, Any]]:
    """Yields (host batch, device batch) in order, `depth` put ahead.

    The next one is fetched and put only when the consumer asks again, that
    is, after it has dispatched its step: no thread is needed for the overlap
    (as `flax.jax_utils.prefetch_to_device`). The pipeline's own threads keep
    host batches ready.

    Args:
      batches: of this host; closed with this generator.
      put: starts the transfer of a batch.
      depth: batches on the devices beside the one in use, at least 1.
    """
    ready: deque[tuple[Batch, Any]] = deque()
    try:
        for batch in batches:
            ready.append((batch, put(batch)))
            if len(ready) > depth:
                yield ready.popleft()
        yield from ready
    finally:
        if isinstance(batches, Generator):
            batches.close()
