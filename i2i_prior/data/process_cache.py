"""Open files and decoded data that a process keeps, the last used ones."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class ProcessCache:
    """Values by key, for many threads; a pickled copy is empty.

    `size`, that of a value, is picklable. Beyond `most`, the sum of sizes, the
    value that was used longest ago is dropped, down to one. Nothing is closed:
    a thread may still use it.
    """

    def __init__(
        self, most: float = math.inf, size: Callable[[Any], float] | None = None
    ) -> None:
        self._most, self._size = most, size
        self.values: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it is missing."""
        with self._lock:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key]
        # Outside the lock: at worst two threads make the same value.
        value = make()
        with self._lock:
            value = self.values.setdefault(key, value)
            while len(self.values) > 1 and self._total() > self._most:
                self.values.popitem(last=False)
        return value

    def _total(self) -> float:
        if self._size is None:
            return len(self.values)
        return sum(map(self._size, self.values.values()))

    def __reduce__(self) -> Any:
        return ProcessCache, (self._most, self._size)
