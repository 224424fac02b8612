"""Conversion of a record to an example, or a reason to drop it."""

import errno
import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from i2i_prior.data.crops import center_box, center_crop
from i2i_prior.data.decode_image import BrokenImage, decode
from i2i_prior.data.record import Record, Source
from i2i_prior.errors import UserError

ENCODINGS = ("keep", "jpeg", "png")
CROPS = ("center", "none")
TOO_SMALL = "is smaller than the least side"
INPUTS = "inputs"  # key of the networks' inputs, which is no field
_PROBED = 16  # records examined for further images
_REASON = 200  # characters
# Fields that are kept, and their types in JSON.
_FIELDS: dict[str, Any] = {"captions": list, "label": int, "json": dict}

_PAUSES = (0.1, 1.0)  # seconds before a record is read again
# Libraries quote the messages of the system.
_SYSTEM = tuple(
    os.strerror(number)
    for number in (
        *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES),
        *(errno.EPERM, errno.ENOMEM, errno.ETIMEDOUT, errno.ECONNRESET),
        *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH),
    )
)
# Errors of a path that leads nowhere, as after a rename.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
# Packages of remote file systems, whose errors are not about content.
_REMOTE = (
    *("aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google"),
    *("huggingface_hub", "requests", "s3fs", "urllib3", "httpx"),
)

# Image (H, W, 3) uint8 of any size -> arrays of fixed shapes.
MakeInputs = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Pictures:
    """Options of the pixels; UserError if a value is out of its range, or two
    do not fit together."""

    # Side in pixels of the square that is cut out, or of the shorter side
    # (never enlarged) with crop "none"; 0 changes no size.
    size: int = 0
    crop: str = "center"  # the largest central square; one of `CROPS`
    encode: str = "keep"  # stores unencoded pixels as PNG; of `ENCODINGS`
    quality: int = 95  # of a JPEG, 1 to 100; its colours are not subsampled
    min_side: int = 0  # smaller images are dropped

    def __post_init__(self) -> None:
        if self.size < 0 or self.min_side < 0:
            raise UserError("--size and --min-side must be 0 or more")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} is not from 1 to 100")
        if self.size and self.encode == "keep":
            raise UserError(
                "--encode keep leaves images as they are, so it does not go "
                "with --size: choose jpeg or png"
            )

    def to_json(self, stored: bool) -> dict[str, Any]:
        """Options that shape the result, by name; `stored` if any image is."""
        wanted = {
            "size": True,
            "min_side": True,
            "crop": self.size,
            "encode": stored,
            "quality": stored and self.encode == "jpeg",
        }
        return {name: getattr(self, name) for name in wanted if wanted[name]}


@dataclass(frozen=True)
class Dropped:
    """A dropped record; `reason` completes "NAME ..."."""

    name: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without its details."""
        return self.reason.partition(" (")[0]

    @property
    def broken(self) -> bool:
        """True if it counts against --max-broken."""
        return self.kind != TOO_SMALL


@dataclass(frozen=True)
class Maker:
    """Function of a record's index: its example, or `Dropped`.

    Safe for any thread or process. UserError if a failure of the system
    prevents reading.
    """

    source: Source
    pictures: Pictures
    further: tuple[str, ...] = ()  # further images that every example has
    image: bool = True  # is stored
    inputs: MakeInputs | None = None  # of networks, kept as `INPUTS`

    def __call__(self, index: int) -> dict[str, Any] | Dropped:
        name = _name_of(self.source, index)
        try:
            record = read(self.source, index, name)
            name = _storable(record.name)
            return self._example(name, record)
        except BrokenImage as broken:
            # Memory addresses differ between runs.
            reason = re.sub(r"0x[0-9a-fA-F]{4,}", "0x", broken.reason)
            return Dropped(name, reason[:_REASON])

    def _example(self, name: str, record: Record) -> dict[str, Any]:
        pixels = decode(record)
        if min(pixels.shape[:2]) < self.pictures.min_side:
            height, width = pixels.shape[:2]
            raise BrokenImage(f"{TOO_SMALL} ({height} x {width})")
        example: dict[str, Any] = {
            "name": name,
            "size": np.array(pixels.shape[:2], np.int32),
            "json": {
                name: plain(record.fields[name])
                for name, plain in _FIELDS.items()
                if name in record.fields
            },
        }
        if self.image:
            example["image"] = _bytes(record.data, pixels, self.pictures)
        if self.further:
            example["images"] = list(self.further)
            for number, further in enumerate(self.further):
                data = _further(record, further, self.pictures)
                example[f"images/{number}"] = data
        if self.inputs:
            example[INPUTS] = self.inputs(_square(pixels, self.pictures))
        return example


def probe(source: Source) -> tuple[tuple[str, ...], str]:
    """Names of the records' further images, sorted, and a note on them.

    Examines a few records all over the source; if they differ, further images
    are left out. A later record without one is dropped. The note is "" if no
    record has any. UserError if a failure of the system prevents reading.
    """
    count = min(len(source), _PROBED)
    found = set()
    for place in range(count):
        index = place * len(source) // count
        try:
            record = read(source, index, _name_of(source, index))
        except BrokenImage:
            continue
        found.add(tuple(sorted(record.fields.get("images", {}))))
    if len(found) > 1:
        why = "since not every example has them"
        return (), f"further images are left out, {why}"
    names = found.pop() if found else ()
    return names, f"further images: {', '.join(names)}" if names else ""


def _name_of(source: Source, index: int) -> str:
    """Name of a record that may be unreadable."""
    names = getattr(source, "names", None)
    return _storable(names[index]) if names is not None else f"record {index}"


def _storable(name: str) -> str:
    """The name as UTF-8, which names of files need not be."""
    return name.encode("utf-8", "backslashreplace").decode()


def _square(pixels: np.ndarray, pictures: Pictures) -> np.ndarray:
    """The part of an image that is kept, not resized."""
    if not pictures.size or pictures.crop == "none":
        return pixels
    left, top, right, bottom = center_box(*pixels.shape[:2])
    return pixels[top:bottom, left:right]


def _further(record: Record, name: str, pictures: Pictures) -> bytes:
    data = record.fields.get("images", {}).get(name)
    if data is None:
        raise BrokenImage(f"has no {name}")
    try:
        return _bytes(data, decode(Record(name, data)), pictures)
    except BrokenImage as broken:
        raise BrokenImage(f"has a further image that {broken.reason}") from None


def _bytes(
    data: bytes | np.ndarray, pixels: np.ndarray, pictures: Pictures
) -> bytes:
    """Encoded bytes of an image to store."""
    if pictures.encode == "keep" and isinstance(data, bytes):
        return data
    if pictures.size and pictures.crop == "center":
        pixels = center_crop(pixels, pictures.size)
    image = Image.fromarray(pixels)
    share = pictures.size / min(image.size)
    if pictures.crop == "none" and 0 < share < 1:
        width, height = (max(1, round(share * n)) for n in image.size)
        image = image.resize(
            (width, height), Image.Resampling.BICUBIC, reducing_gap=3.0
        )
    out = io.BytesIO()
    try:
        if pictures.encode == "jpeg":
            image.save(out, "JPEG", quality=pictures.quality, subsampling=0)
        else:
            image.save(out, "PNG")
    except (OSError, ValueError) as error:  # such as 65,500 pixels
        raise BrokenImage(f"cannot be encoded ({error})") from error
    return out.getvalue()


def read(source: Source, index: int, name: str) -> Record:
    """Record `index`, read three times if the system fails.

    Damage is permanent, so such a record is dropped. A disk or a network that
    fails may work again later: the command stops, and no record is lost.

    `name` is for the message. BrokenImage if the record is damaged or gone,
    UserError if the disk, the network or a permission is in the way.
    """
    for pause in (*_PAUSES, None):
        try:
            return source[index]
        except OSError as error:
            why = error.strerror or error
            if _is_permanent(error):
                raise BrokenImage(f"cannot be read ({why})") from error
            if pause is None:
                raise UserError(
                    f"{name} of the source cannot be read ({why}), though "
                    "nothing shows that it is damaged: repair that and run the "
                    "same command again, which goes on"
                ) from error
            time.sleep(pause)
    raise AssertionError


def _is_permanent(error: OSError) -> bool:
    """Returns True for damage and missing files."""
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    gone = any(isinstance(each, FileNotFoundError) for each in chain)
    return gone or error.errno in _NOWHERE or not any(map(_of_system, chain))


def _of_system(error: BaseException) -> bool:
    # Sources raise damage with EIO and their own messages.
    number = error.errno if isinstance(error, OSError) else None
    return (
        isinstance(error, TimeoutError | ConnectionError)
        or type(error).__module__.partition(".")[0] in _REMOTE
        or number not in (None, errno.EIO)
        or any(words in str(error) for words in _SYSTEM)
    )
