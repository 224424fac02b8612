"""Selections: files that list the kept and dropped records of a source.

JSON lines: a header, the kept records as bits, then one line for each dropped
record:

    {"format": 1, "kind": "selection", "source": SPEC, "fingerprint": 16 hex,
     "records": N, "kept": K, "dropped": {reason: count}, "options": {...}}
    {"from": 65536, "bits": base64, 8 records a byte, the first one highest}
    {"record": 17, "reason": "min_side", "detail": "has ...", "name": NAME}
    {"record": 18, "reason": "near_duplicate", "instead": 3}

If a data set has moved, its SPEC in the header may be edited: the fingerprint
shows if it is still the same.
"""

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from i2i_prior.data.record import Record, Source, fingerprint_of, locate
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path

_SCHEME = "select:"
_LINE = 65_536  # records in a line of bits
_BLOCK = 512  # records counted together; a look-up unpacks one block
_LONGEST = 1 << 20  # bytes of a line


class Selected:
    """The kept records of a source, in its order.

    Costs 1.2 bits a record of the whole source in memory. `kept` has bits as in
    the file, uint8 (ceil(N / 8),), none set after N. UserError if no record is
    kept.
    """

    def __init__(self, source: Source, kept: np.ndarray) -> None:
        self._source = source
        self.notes = list(getattr(source, "notes", ()))
        self._bits = np.zeros(-(-len(kept) // 64) * 64, np.uint8)
        self._bits[: len(kept)] = kept
        counts = np.bitwise_count(self._bits.reshape(-1, _BLOCK // 8))
        self._ends = np.cumsum(counts.sum(1, dtype=np.int64))
        if not len(self):
            raise UserError(
                "the selection keeps no record: loosen its filters and make "
                "it again"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def number(self, index: int) -> int:
        """Number in the whole source of the kept record `index`."""
        block, place = locate(self._ends, index)
        part = self._bits[block * _BLOCK // 8 : (block + 1) * _BLOCK // 8]
        places = np.flatnonzero(np.unpackbits(part))
        return block * _BLOCK + int(places[place])

    def __getitem__(self, index: int) -> Record:
        return self._source[self.number(index)]

    def fingerprint(self) -> str:
        places = base64.b64encode(self._bits.tobytes()).decode()
        names = [self._source.fingerprint(), places]
        return fingerprint_of("select", names, [len(self._source), len(self)])


def open_selection(path: str, open_source: Callable[[str], Source]) -> Selected:
    """Opens `select:PATH`; `open_source` opens the SPEC of its source.

    UserError if the file is absent or damaged, or its source cannot be opened,
    is a mixture, or has changed.
    """
    header, kept = read_selection(path)
    spec = header["source"]
    refuse_mixture(spec)
    try:
        if spec == f"{_SCHEME}{path}":
            raise RecursionError
        source = open_source(spec)
    except RecursionError:
        raise UserError(
            f"selection {path} is one of itself: write the SPEC of its source "
            "in the first line"
        ) from None
    check_source(path, header, source)
    return Selected(source, kept)


def refuse_mixture(spec: str) -> None:
    """Raises UserError for `mix:`, since a selection has no weights."""
    if spec.startswith("mix:"):
        raise UserError(
            f"a selection would lose the weights of {spec}: curate each part, "
            "then mix the selections, as in mix:0.7*select:a.jsonl + "
            "0.3*select:b.jsonl"
        )


def refuse_source(spec: str, out: str | os.PathLike[str]) -> None:
    """Raises UserError if the selection `spec` reads the file `out`."""
    target = os.path.realpath(os.path.expanduser(out))
    while spec.startswith(_SCHEME):
        path = os.path.expanduser(spec.removeprefix(_SCHEME))
        if os.path.realpath(path) == target:
            raise UserError(
                f"selection {out} would take the place of its own source: "
                "give it another name"
            )
        spec = read_selection(path)[0]["source"]


def check_source(path: str, header: Mapping[str, Any], source: Source) -> None:
    """Raises UserError if a selection was made from another source."""
    same = len(source) == header["records"]
    if not same or source.fingerprint() != header["fingerprint"]:
        raise UserError(
            f"selection {path} was made from another state of "
            f"{header['source']} ({header['records']:,} records then, "
            f"{len(source):,} now): run i2i-prior curate again"
        )


def read_selection(path: str) -> tuple[dict[str, Any], np.ndarray]:
    """The header of a selection, and its bits for `Selected`; UserError if the
    file is absent, damaged or no selection."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            header = _header(file)
            return header, _bits(file, header["records"], header["kept"])
    except OSError as error:
        raise UserError(
            f"selection {path} cannot be read ({error.strerror}): check the "
            "path after select:"
        ) from error
    except ValueError as error:
        raise UserError(
            f"file {path} is no complete selection ({error}): make one with "
            "i2i-prior curate"
        ) from error


def read_dropped(path: str) -> Iterator[dict[str, Any]]:
    """Yields the lines of the dropped records of a valid selection."""
    with open(os.path.expanduser(path), "rb") as file:
        for line in file:
            if line.startswith(b'{"record"'):
                yield json.loads(line)


def write_selection(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    kept: np.ndarray,
    dropped: Iterable[str],
) -> None:
    """Writes a selection atomically; makes its folder.

    The header has source, fingerprint, options and the like, `kept` is bool
    (N,), `dropped` has the lines of the dropped records. UserError if the disk
    is full, or nothing may be written there.
    """
    target = Path(path).expanduser()
    counts = {"records": len(kept), "kept": int(kept.sum())}
    about = {"format": 1, "kind": "selection", **header, **counts}
    with (
        write_errors(f"selection {path}"),
        atomic_path(target) as part,
        part.open("w", encoding="utf-8") as file,
    ):
        file.write(json.dumps(about) + "\n")
        for start in range(0, len(kept), _LINE):
            bits = np.packbits(kept[start : start + _LINE])
            text = base64.b64encode(bits.tobytes()).decode()
            line = json.dumps({"from": start, "bits": text})
            file.write(f"{line}\n")
        file.writelines(dropped)


def _object(file: BinaryIO) -> dict[str, Any]:
    """The JSON object of the next line; raises ValueError."""
    try:
        found = json.loads(file.readline(_LONGEST))
    except RecursionError:
        found = None
    except ValueError:
        raise ValueError("a line is cut or damaged") from None
    if not isinstance(found, dict):
        raise ValueError("a line is no object")
    return found


def _header(file: BinaryIO) -> dict[str, Any]:
    header = _object(file)
    if (header.get("format"), header.get("kind")) != (1, "selection"):
        raise ValueError("the first line does not say so")
    types = {"source": str, "fingerprint": str, "records": int, "kept": int}
    for name, kind in types.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"the first line lacks {name!r}")
    if not 0 <= header["kept"] <= header["records"]:
        raise ValueError("its counts are wrong")
    return header


def _bits(file: BinaryIO, records: int, kept: int) -> np.ndarray:
    """The bits of all lines, joined; raises ValueError."""
    whole = bytearray()
    for start in range(0, records, _LINE):
        line = _object(file)
        try:
            data = base64.b64decode(line.get("bits", ""), validate=True)
        except (TypeError, binascii.Error):
            data = b""
        wanted = -(-min(_LINE, records - start) // 8)
        if (line.get("from"), len(data)) != (start, wanted):
            raise ValueError(f"the bits of record {start} on are missing")
        whole += data
    bits = np.frombuffer(whole, np.uint8)
    behind = records % 8 and bits[-1] & (0xFF >> records % 8)
    if behind or int(np.bitwise_count(bits).sum(dtype=np.int64)) != kept:
        raise ValueError("its bits are not as many as it says")
    return bits
