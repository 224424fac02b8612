"""Small pictures, folders and archives for the tests of sources."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from PIL import Image

from i2i_prior.data.decode_image import decode
from i2i_prior.data.record import Record


def png(value: int) -> bytes:
    """A 4x4 picture whose red is `value`."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def value_of(record: Record) -> int:
    """Red level of an image of `png`."""
    return int(decode(record)[0, 0, 0])


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_folder(path: Path, members: dict[str, bytes]) -> None:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def age(path: Path) -> None:
    """Makes a file, or a folder and those below it, an hour older."""
    below = [Path(root) for root, _, _ in os.walk(path)]
    for each in [path, *below]:
        status = each.stat()
        times = status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9
        os.utime(each, ns=times)


def write_arrayrecord(path: Path, records: list[bytes]) -> None:
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(
        str(path), "group_size:1,uncompressed"
    )
    for record in records:
        writer.write(record)
    writer.close()
