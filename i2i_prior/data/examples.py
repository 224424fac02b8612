"""Binary format of prepared examples, the records of ArrayRecord shards.

Arrays of a fixed shape come first, one after the other, so that reading one is
a view at a known offset; then all other fields, each after its length. The
layout is written once, in the manifest.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

# Of a field: an array of a fixed shape, bytes, text, or a JSON value.
KINDS = ("array", "bytes", "text", "json")
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in ("float16", "bfloat16", "float32", "int32", "uint8")
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Field:
    """One field of every example."""

    name: str  # such as "image", "latent", "embedding/dino"
    kind: str  # one of `KINDS`
    dtype: str = ""  # of an array, as its shape
    shape: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of an array in bytes; 0 for other kinds."""
        if self.kind != "array":
            return 0
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


class Layout:
    """Conversion of examples to bytes and back.

    ValueError for an unknown kind or dtype, a side that is no int or negative,
    a shape without an array, or two fields of one name.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        if len({f.name for f in fields}) < len(fields):
            raise ValueError("two fields have the same name")
        for f in fields:
            if f.kind not in KINDS or not _is_known(f):
                raise ValueError(f"field {f} is unknown to the layout")
        self._arrays = [f for f in fields if f.kind == "array"]
        self._others = [f for f in fields if f.kind != "array"]
        self._fixed = sum(f.bytes for f in self._arrays)

    @classmethod
    def from_json(cls, rows: Any) -> Layout:
        """The inverse of `to_json`; raises ValueError for anything else."""
        try:
            rows = [{**row, "shape": tuple(row["shape"])} for row in rows]
            return cls([Field(**row) for row in rows])
        except (TypeError, KeyError) as error:
            raise ValueError(f"{error} in the list of fields") from error

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values for the manifest."""
        return [{**asdict(f), "shape": list(f.shape)} for f in self.fields]

    def pack(self, example: Mapping[str, Any]) -> bytes:
        """Bytes of an example with one value a field; ValueError if an array
        has another shape or dtype."""
        parts = []
        for f in self._arrays:
            array = np.ascontiguousarray(example[f.name])
            if array.shape != f.shape or array.dtype != _DTYPES[f.dtype]:
                raise ValueError(
                    f"{f.name} is {array.dtype} {array.shape}, not {f.dtype} "
                    f"{f.shape}"
                )
            parts.append(array.tobytes())
        for f in self._others:
            value = example[f.name]
            if f.kind == "json":
                value = json.dumps(value, sort_keys=True)
            data = value if f.kind == "bytes" else value.encode()
            parts += [_LENGTH.pack(len(data)), data]
        return b"".join(parts)

    def unpack(self, data: bytes) -> dict[str, Any]:
        """The inverse of `pack`, with arrays as read-only views of `data`;
        ValueError if that was not packed by this layout."""
        example = self.arrays(data)
        place = self._fixed
        try:
            for f in self._others:
                (length,) = _LENGTH.unpack_from(data, place)
                place += _LENGTH.size + length
                value: Any = data[place - length : place]
                if f.kind != "bytes":
                    value = value.decode()
                example[f.name] = (
                    json.loads(value) if f.kind == "json" else value
                )
        except (struct.error, ValueError, RecursionError) as error:
            raise ValueError(f"a damaged example ({error})") from error
        if place != len(data):
            raise ValueError("a damaged example (it has another length)")
        return example

    def arrays(self, data: bytes) -> dict[str, Any]:
        """The arrays alone, in microseconds; ValueError for too few bytes."""
        if len(data) < self._fixed:
            raise ValueError("a damaged example (it ends too early)")
        found: dict[str, Any] = {}
        place = 0
        for f in self._arrays:
            found[f.name] = np.frombuffer(
                data, _DTYPES[f.dtype], math.prod(f.shape), place
            ).reshape(f.shape)
            place += f.bytes
        return found


def _is_known(field: Field) -> bool:
    if not isinstance(field.name, str):
        return False
    if field.kind != "array":
        return (field.dtype, field.shape) == ("", ())
    sides = all(type(side) is int and side >= 0 for side in field.shape)
    return field.dtype in _DTYPES and sides
