"""Fuzzing of images: decoding gives pixels or raises BrokenImage.

    PYTHONPATH=. python tests/data/fuzz_images.py --cases 100000 [--seed 0]

Groups of cases run in a child process under a time limit, so that a crash and
a hang are seen as such and the cases of the group are named. In the tests
`test_fuzz_images.py` runs a thousand.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections import Counter

import numpy as np
from PIL import Image

from i2i_prior.data.decode_image import BrokenImage, Picture
from i2i_prior.data.record import Record

GROUP = 2000  # cases a child
SECONDS = 120  # for a group, most of which take 3
MOST_PIXELS = 4_000_000  # mutated sizes of more are refused


def seeds() -> list[bytes]:
    """One small valid file of each kind."""
    y, x = np.mgrid[:61, :83]
    noise = np.random.default_rng(0).integers(0, 40, (61, 83, 3))
    pixels = np.stack([x * 2, y * 3, x + y], -1) + noise
    image = Image.fromarray(pixels.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    kinds = [
        ("RGB", "JPEG", {"exif": exif, "icc_profile": b"x" * 300}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("L", "JPEG", {"optimize": True, "restart_marker_blocks": 4}),
        ("CMYK", "JPEG", {}),
        ("RGB", "MPO", frames),
        ("RGB", "PNG", {"exif": exif}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("I;16", "PNG", {}),
        ("RGB", "PNG", frames),
        ("RGB", "WEBP", {"exif": exif}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "WEBP", frames),
        ("P", "GIF", frames),
        ("RGB", "BMP", {}),
        ("P", "BMP", {}),
    ]
    return [encode(image, *kind) for kind in kinds]


def encode(image: Image.Image, mode: str, form: str, options: dict) -> bytes:
    file = io.BytesIO()
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey)
    else:
        image = image.convert(mode)
    image.save(file, form, **options)
    return file.getvalue()


def mutated(files: list[bytes], rng: np.random.Generator) -> bytes:
    """One of the files with one to eight places damaged."""
    data = bytearray(files[rng.integers(len(files))])
    other = files[rng.integers(len(files))]
    for _ in range(1 << rng.integers(4)):
        # Headers are short, and where the decisions are made.
        end = len(data) if rng.random() < 0.5 else min(len(data), 80)
        at = int(rng.integers(max(1, end)))
        span = int(rng.integers(1, 17))
        how = rng.integers(7)
        if how == 0:
            data[at : at + 1] = bytes([rng.integers(256)])
        elif how == 1:
            flipped = data[at] ^ (1 << rng.integers(8)) if data else 0
            data[at : at + 1] = bytes([flipped])
        elif how == 2:
            del data[at : at + span]
        elif how == 3:
            data[at:at] = rng.bytes(span)
        elif how == 4:
            edge = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff")
            data[at : at + 4] = edge[rng.integers(3)]
        elif how == 5:
            start = int(rng.integers(len(other)))
            data[at:at] = other[start : start + 20 * span]
        elif rng.random() < 0.3:
            del data[at:]
        else:
            data[at:at] = data[at : at + 40 * span]
    return bytes(data)


def try_one(data: bytes, rng: np.random.Generator) -> str:
    """Reads the header, cuts twice, decodes the whole; returns the outcome.

    Raises:
        any exception but BrokenImage.
    """
    try:
        picture = Picture(Record("x", data), MOST_PIXELS)
        height, width = picture.height, picture.width
        left, top = int(rng.integers(width)), int(rng.integers(height))
        parts = [((0, 0, width, height), 8), ((left, top, width, height), 5)]
        cuts = picture.cut(parts)
        whole = picture.pixels()
    except BrokenImage as broken:
        return f"broken: {broken.reason[:24]}"
    shapes = [(8, 8, 3), (5, 5, 3), (height, width, 3)]
    for pixels, shape in zip([*cuts, whole], shapes, strict=True):
        assert pixels.shape == shape, (pixels.shape, shape)
        assert pixels.dtype == np.uint8
    return "pixels"


def run(first: int, cases: int, seed: int = 0) -> Counter[str]:
    """Cases `first`, `first + 1` ...; each is a function of (seed, case)."""
    files = seeds()
    outcomes: Counter[str] = Counter()
    for case in range(first, first + cases):
        rng = np.random.default_rng((seed, case))
        data = mutated(files, rng)
        try:
            outcomes[try_one(data, rng)] += 1
        except Exception as error:
            raise AssertionError(f"case {case} of seed {seed}") from error
    return outcomes


def main() -> int:
    """Runs the groups; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help="run them here")
    arguments = parser.parse_args()
    if arguments.child:
        found = run(arguments.first, arguments.cases, arguments.seed)
        print(found["pixels"], found.total() - found["pixels"])
        return 0
    failed, pixels, broken = [], 0, 0
    end = arguments.first + arguments.cases
    for first in range(arguments.first, end, GROUP):
        command = [sys.executable, __file__, "--child", "--first", str(first)]
        command += ["--cases", str(min(GROUP, end - first))]
        command += ["--seed", str(arguments.seed)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS
            )
            why = f"exit code {done.returncode}: {done.stderr[-600:]}"
            good = done.returncode == 0
        except subprocess.TimeoutExpired:
            why, good = f"no end within {SECONDS} s", False
        if good:
            counts = [int(word) for word in done.stdout.split()]
            pixels, broken = pixels + counts[0], broken + counts[1]
        else:
            failed.append(first)
            print(f"cases from {first} on: {why}", flush=True)
    print(f"{pixels} decoded, {broken} broken, {len(failed)} groups failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
