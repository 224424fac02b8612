"""Images in Parquet files, in the form of the Hugging Face Hub."""

import os
from operator import attrgetter
from typing import Any

import numpy as np

from i2i_prior.data.process_cache import ProcessCache
from i2i_prior.data.record import (
    CAPTIONS,
    Record,
    fingerprint_of,
    locate,
    text_fields,
)
from i2i_prior.data.sources import places
from i2i_prior.errors import UserError

_CACHE_BYTES = 512 << 20  # of row groups kept in memory by a process


class ParquetSource:
    """The rows of Parquet files, in the order of the file names.

    A row is read with its whole row group; the last ones used are kept.
    Random access to large groups is slow: `i2i-prior prepare` such a set
    first.

    Args:
        pattern: path, wildcard, or URL that fsspec reads.
        image: column of encoded images, binary or {"bytes", "path"}.
        caption: column of text or lists of text; "" for the first of
            `caption`, `captions` and `text` that exists.
        label: column of integers; "" for `label`, if that exists.

    UserError if pyarrow is not installed, a file is missing or damaged, a
    column is missing, or there is no row.
    """

    def __init__(
        self,
        pattern: str,
        image: str = "image",
        caption: str = "",
        label: str = "",
    ) -> None:
        self._paths = places.find(places.absolute(pattern), "parquet")
        groups: list[tuple[int, int, int]] = []
        columns: list[set[str]] = []
        self._sizes = []
        for number, path in enumerate(self._paths):
            size, rows, names = _look(path)
            self._sizes.append(size)
            columns.append(names)
            groups += [(number, i, n) for i, n in enumerate(rows) if n]
        if not groups:
            raise UserError(f"Parquet {pattern} holds no row: give others.")
        there = set.intersection(*columns)
        guess = [name for name in CAPTIONS if name in there]
        self._image = image
        self._caption = caption or (guess[0] if guess else "")
        self._label = label or ("label" if "label" in there else "")
        self._columns = [
            name for name in (image, self._caption, self._label) if name
        ]
        for name in self._columns:
            if name not in there:
                known = ", ".join(sorted(there))
                raise UserError(
                    f"Parquet {pattern} has no column {name}: name others as "
                    f"#image=COLUMN,caption=COLUMN,label=COLUMN out of {known}."
                )
        self._groups = np.array(groups, np.int64)
        self._ends = np.cumsum(self._groups[:, 2])
        self._tables = ProcessCache(_CACHE_BYTES, attrgetter("nbytes"))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        group, row = locate(self._ends, index)
        try:
            table = self._tables.get(group, lambda: self._table(group))
            values = {n: table[n][row].as_py() for n in self._columns}
        # pyarrow has its own errors, and those of the file system.
        except Exception as error:
            raise OSError(5, places.one_line(error)) from error
        data = values[self._image]
        if isinstance(data, dict):
            data = data.get("bytes")
        if not isinstance(data, bytes):
            raise OSError(5, f"row {index % len(self)} has no image bytes")
        captions, label = values.get(self._caption), values.get(self._label)
        fields = text_fields(captions, label)
        return Record(self._name(group, row), data, fields)

    def fingerprint(self) -> str:
        names = [path.rpartition("/")[2] for path in self._paths]
        columns = [f"{kind} {len(self)}" for kind in self._columns]
        sizes = [*self._sizes, *(0 for _ in columns)]
        return fingerprint_of("parquet", [*names, *columns], sizes)

    def _name(self, group: int, row: int) -> str:
        number, within = self._groups[group, :2].tolist()
        first = self._groups[group - within : group, 2].sum()
        return f"{os.path.basename(self._paths[number])}/{int(first) + row}"

    def _table(self, group: int) -> Any:
        number, within, _ = self._groups[group].tolist()
        with _open(self._paths[number]) as file:
            return file.read_row_group(within, columns=self._columns)


def _open(path: str) -> Any:
    import pyarrow.parquet

    file = places.open_file(path) if places.is_url(path) else path
    return pyarrow.parquet.ParquetFile(file)


def _look(path: str) -> tuple[int, list[int], set[str]]:
    """Size of a file in bytes, rows of its groups, names of its columns."""
    try:
        with _open(path) as file:
            groups = range(file.metadata.num_row_groups)
            rows = [file.metadata.row_group(i).num_rows for i in groups]
            return places.stamp(path)[0], rows, set(file.schema_arrow.names)
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow: pip install 'i2i-prior[parquet]'."
        ) from error
    except Exception as error:
        raise UserError(
            f"{path} is no complete Parquet file ({places.one_line(error)}): "
            "fetch it again."
        ) from error
