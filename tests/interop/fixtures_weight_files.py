"""Torch and safetensors files built byte by byte, to have one flaw each."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile

import numpy as np

# Opcodes of the pickle protocol, as torch.save writes them.
HEAD = b"\x80\x02"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
MAGIC = 0x1950A86A20F9469CFC6C


def obj(value) -> bytes:
    """Plain data as opcodes, without head and stop."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key="0", count=6, kind=b"ctorch\nFloatStorage\n") -> bytes:
    return (
        b"("
        + obj("storage")
        + kind
        + obj(key)
        + obj("cpu")
        + obj(count)
        + b"tQ"
    )


def tensor(offset=0, shape=(2, 3), strides=(3, 1), where=None) -> bytes:
    arguments = obj(offset) + obj(shape) + obj(strides) + obj(False) + obj(None)
    where = storage() if where is None else where
    return TENSOR + b"(" + where + arguments + b"tR"


def state(*entries: bytes) -> bytes:
    """Pickle of {"w": a good tensor, "x0": the first entry, ...}."""
    items = obj("w") + tensor() + b"s"
    for number, entry in enumerate(entries):
        items += obj(f"x{number}") + entry + b"s"
    return HEAD + b"}" + items + b"."


NUMBERS = np.arange(6, dtype=np.float32).tobytes()


def zipped(pickled: bytes, numbers=NUMBERS, change=None, **kinds) -> bytes:
    """The zip format; change(entries) may forge the central directory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", pickled),
            ("byteorder", b"little"),
            ("data/0", numbers),
        ):
            kind = kinds.get(name.replace("/", "").replace(".", ""), 0)
            archive.writestr(f"archive/{name}", content, kind)
        if change:
            change(
                {i.filename.partition("/")[2]: i for i in archive.infolist()}
            )
    return file.getvalue()


def legacy(
    pickled: bytes, keys=("0",), count=6, numbers=NUMBERS, first=None
) -> bytes:
    """The format before torch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True}
    parts = [
        pickle.dumps(MAGIC, 2) if first is None else first,
        pickle.dumps(1001, 2),
        pickle.dumps(system, 2),
        pickled,
        pickle.dumps(list(keys), 2),
        struct.pack("<q", count),
        numbers,
    ]
    return b"".join(parts)


GOOD = legacy(state())


def safetensors(header, numbers=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return struct.pack("<Q", length) + text + numbers


def entry(**changes):
    good = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
    return {key: v for key, v in {**good, **changes}.items() if v is not None}
