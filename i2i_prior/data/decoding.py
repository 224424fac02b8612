"""Decoders of untrusted bytes: libjpeg-turbo for plain JPEG, else Pillow.

Any bytes give pixels or BrokenImage. The header is checked first: nothing is
allocated before the size it claims is allowed. Plain JPEG is decoded by
simplejpeg (libjpeg-turbo without Pillow's copies, half the time); Pillow
decodes all other files, those that simplejpeg refuses, and all where it is
not installed. Both hold the same library, and their pixels are equal to the
bit.
"""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

MAX_PIXELS = 100_000_000

# Only these decoders run, whatever the name of a file: Pillow would start
# Ghostscript for an EPS file named .jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_ORIENTATION_TAG = 0x0112
_START_OF_SCAN = b"\xff\xda"
# A progressive file has about ten, others one to four, thumbnails their own.
# Each walks over the whole image, even one of six bytes, so that a file of
# many would decode for hours.
_MAX_SCANS = 64

# `read_header` has its own limit, and catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of damage that it ignores: a line each, for millions of images.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class BrokenImage(Exception):  # noqa: N818 (an event, not a programming error)
    """An image that cannot be used; `reason` completes "the image ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """Header of an encoded image."""

    height: int  # as stored, in pixels
    width: int
    orientation: int  # EXIF, 1 to 8; 1 if the tag is missing or damaged
    jpeg: bool  # its decoder can scale down
    plain: bool  # a JPEG that simplejpeg decodes (RGB or grey)


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Size and kind of an encoded image; BrokenImage if it is empty, of no
    known format, or of more than `max_pixels` pixels."""
    if not data:
        raise BrokenImage("is empty")
    with _opened(data, max_pixels) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise BrokenImage(f"has more than {max_pixels} pixels")
        jpeg = image.format in ("JPEG", "MPO")
        several = jpeg and not _one_scan(data, image)
        if several and data.count(_START_OF_SCAN) > _MAX_SCANS:
            raise BrokenImage(f"has more than {_MAX_SCANS} scans")
        plain = jpeg and image.mode in ("RGB", "L")
        return Header(height, width, _orientation(image), jpeg, plain)


def decode_stored(data: bytes, header: Header, shrink: int = 1) -> np.ndarray:
    """All pixels of an image as they are stored, not turned upright.

    The first frame of an animation is taken; transparency is laid over
    white; grey of 16 bits is scaled to 8 bits by 255 / 65535 and colour of
    16 bits keeps its high byte; colour profiles are ignored.

    A JPEG is decoded at 1 / `shrink` (1, 2, 4 or 8) of its size, by a smaller
    DCT; others take no notice. Returns (ceil(height / shrink), ceil(width /
    shrink), 3) uint8. BrokenImage if truncated or corrupt.
    """
    if header.plain and simplejpeg is not None:
        shape = -(-header.height // shrink), -(-header.width // shrink)
        # What it refuses may be fit for Pillow, which lets minor damage
        # pass; and Pillow has the better words for what is wrong.
        with contextlib.suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(
                data, min_height=shape[0], min_width=shape[1]
            )
            if pixels.shape == (*shape, 3):
                return pixels
    with _opened(data, MAX_PIXELS) as image:
        if header.jpeg and shrink > 1:
            size = header.width // shrink, header.height // shrink
            image.draft(None, (max(1, size[0]), max(1, size[1])))
        image.load()
        return np.array(_to_rgb(image))


def _one_scan(data: bytes, image: Image.Image) -> bool:
    """Returns True if a JPEG's first scan holds all components.

    A decoder then ends after it. Shown by five bytes, while counting scans
    walks over all of them.
    """
    components = {"L": 1, "RGB": 3, "CMYK": 4}.get(image.mode, 0)
    length = 6 + 2 * components
    header = _START_OF_SCAN + struct.pack(">HB", length, components)
    # Pillow stops behind it, but goes back to the start for an MPO.
    file = getattr(image, "fp", None)
    start = (file.tell() if file else 0) - len(_START_OF_SCAN) - length
    whole = start > 0 and data.startswith(header, start)
    return whole and "progressive" not in image.info


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image; all exceptions of Pillow become BrokenImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except (BrokenImage, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BrokenImage(f"has more than {max_pixels} pixels") from None
    except Image.UnidentifiedImageError:
        raise BrokenImage("is no image of a known format") from None
    except Exception as error:
        # Its decoders raise nearly everything on hostile bytes: OSError,
        # SyntaxError, ValueError, struct.error, zlib.error, IndexError ...
        raise BrokenImage(f"cannot be decoded ({error})") from error


def _orientation(image: Image.Image) -> int:
    try:
        # Not image.getexif(): for a PNG that would decode the pixels.
        found = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1  # damaged EXIF does not make the pixels worse
    return found if found in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Grey of 16 bits; convert() would clip it to 255 instead of scaling.
        grey = np.asarray(image).astype(np.float64) / 257.0
        grey = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La"):
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
