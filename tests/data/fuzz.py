"""Fuzzing of archives: reading raises nothing but UserError and OSError.

python tests/data/fuzz.py --cases 100000 --what tar
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, write_arrayrecord

MOST_SECONDS = 5.0  # of one case, far above any that ends


def a_tar() -> bytes:
    """An archive with headers of all kinds."""
    file = io.BytesIO()
    formats = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    for kind in formats:
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for name, data in {
                "1.png": png(1),
                "1.txt": b"a caption",
                "1.json": b'{"a": [1, 2, {"b": null}]}',
                "1.cls": b"12",
                "ü" * 60 + "/" + "x" * 120 + ".seg.png": png(2),
                "4.jpg": b"",
            }.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                if kind == tarfile.PAX_FORMAT:
                    member.pax_headers = {"comment": "ä", "mtime": "1.5"}
                archive.addfile(member, io.BytesIO(data))
            link = tarfile.TarInfo("5.png")
            link.type, link.linkname = tarfile.SYMTYPE, "1.png"
            archive.addfile(link)
        # Without its end mark the second archive is read too.
        if kind == formats[0]:
            file.truncate(archive.offset - 1024)
            file.seek(0, io.SEEK_END)
    return file.getvalue()


def an_arrayrecord() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.array_record")
        write_arrayrecord(path, [png(i) * (1 + i % 3) for i in range(40)])
        return path.read_bytes()


def mutated(data: bytes, rng: random.Random, block: int) -> bytes:
    """A few changes of bytes, blocks and length."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(max(1, len(changed)))
        kind = rng.randrange(6)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            length = rng.choice((1, 12, 512))
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            at -= at % block
            changed[at:at] = changed[at : at + block]
        elif kind == 3:
            at -= at % block
            del changed[at : at + block]
        else:
            changed[at : at + 1] = bytes([rng.choice(b"\0\x80\xff0799L x")])
    return bytes(changed)


def mutated_tar(data: bytes, rng: random.Random) -> bytes:
    """Mutations often within headers, with corrected checksums."""
    changed = bytearray(mutated(data, rng, 512) if rng.random() < 0.5 else data)
    for at in range(0, len(changed) - 511, 512):
        if changed[at + 257 : at + 262] != b"ustar":
            continue
        if rng.random() < 0.2:
            # size, type, or anywhere
            start, end = rng.choice(((124, 136), (156, 157), (0, 512)))
            place = at + rng.randrange(start, end)
            changed[place] = rng.choice(b"\0\x80\xff01579LKSxg5")
        header = changed[at : at + 512]
        header[148:156] = b" " * 8
        changed[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(changed)


def run_case(scheme: str, path: Path, data: bytes) -> str:
    """Opens and reads all; returns its end, raises other exceptions."""
    path.write_bytes(data)
    start, ended, complaint = time.monotonic(), "read", ""
    try:
        source = open_source(f"{scheme}:{path}")
        source.fingerprint()
        for index in range(min(len(source), 500)):
            try:
                record = source[index]
                assert isinstance(record.data, bytes)
            except OSError:
                ended = "OSError"
    except UserError as error:
        ended, complaint = "UserError", str(error)
    assert "\n" not in complaint, complaint
    assert time.monotonic() - start < MOST_SECONDS, "it took too long"
    return ended


def run(what: str, cases: int, folder: Path, first: int = 0) -> Counter[str]:
    """Runs the cases of seeds `first`, `first` + 1, ...; counts their ends.

    Raises:
        AssertionError: naming the seed, with what was raised as its cause.
    """
    base = {"tar": a_tar, "arrayrecord": an_arrayrecord}[what]()
    change: Callable[[random.Random], bytes] = {
        "tar": lambda rng: mutated_tar(base, rng),
        "arrayrecord": lambda rng: mutated(base, rng, 4096),
    }[what]
    path = folder / "case.array_record"
    ended: Counter[str] = Counter()
    for seed in range(first, first + cases):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = change(random.Random(seed))
                ended[run_case(what, path, data)] += 1
        except BaseException as error:
            raise AssertionError(f"{what}, seed {seed}: {error!r}") from error
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--what", choices=("tar", "arrayrecord"), required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        start = time.monotonic()
        ended = run(options.what, options.cases, Path(folder), options.first)
        print(dict(ended), f"in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
