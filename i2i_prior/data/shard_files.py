"""Random access to the records of ArrayRecord shards."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from i2i_prior.data.sources import places

# For fewer records the library's threads cost more than they save.
_FEW = 64
# Exceptions of the library for damaged bytes.
DAMAGE = (RuntimeError, ValueError, IndexError)


class ShardReader:
    """The records of several files, one file after the other.

    Picklable, and safe for many threads.

    Args:
        shards: path -> records in it, more than none in all.
    """

    def __init__(self, shards: Mapping[str, int]) -> None:
        self.shards = {path: count for path, count in shards.items() if count}
        self._reader: Any = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(self.shards.values())

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Stored bytes of records, in the order of `indices`.

        Raises:
            OSError: one of them is damaged.
        """
        try:
            reader = self._open()
            if len(indices) < _FEW:
                return [reader[index] for index in indices]
            return list(reader.__getitems__(list(indices)))
        except DAMAGE as error:
            raise OSError(5, places.one_line(error)) from error

    def _open(self) -> Any:
        # Late, and once a process: a reader holds open files and threads.
        with self._lock:
            if self._reader is None:
                from array_record.python import array_record_data_source

                # With the counts in the names no file is opened for them.
                self._reader = array_record_data_source.ArrayRecordDataSource(
                    [f"{path}[0:{n}]" for path, n in self.shards.items()]
                )
            return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["shards"])  # type: ignore[misc]
