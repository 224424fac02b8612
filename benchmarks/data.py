"""Throughput of training images: this project against a torch DataLoader.

    PYTHONPATH=. python benchmarks/data.py [--json OUT] [--rounds 9]

JPEG files (quality 90) of three sizes to batches of 64: decoded, a
random-resized crop of 256 pixels (a quarter to all of the area), mirrored or
not, uint8. Ours is `Pipeline.batches_from` with two threads; on request
(`--programs ours ours_2p`) with two worker processes as well. The peers are a
DataLoader with two workers and torchvision's transforms as they are on
Pillow: "torch" with our filter, bicubic, and "bilinear" with torchvision's
default, which costs less. The files are mosaics of the built-in photographs at
their own resolution, so that every pixel has a photograph's detail.

`interleaved` says how it is timed. Between its turns a program is stopped
together with its workers, so that none makes batches in another one's time.
"CPU s" counts the workers.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import OTHERS, Worker, compare, first_cores, main, serve, show
from PIL import Image

BATCH, SIDE = 64, 256
TILE = 375, 250  # width and height, pixels, at most those of a photograph
# width, height: files, batches a turn
SIZES = {(500, 375): (96, 8), (1600, 1200): (16, 2), (2592, 1944): (8, 2)}
PROGRAMS = ("ours", "ours_2p", "torch", "bilinear")
Run = Callable[[int], Any]


def write_files(folder: Path, width: int, height: int, count: int) -> None:
    """Mosaics of photographs as JPEG files."""
    from i2i_prior.data.builtin import PhotoSource

    sources = PhotoSource("photos"), PhotoSource("photos/heldout")
    photos = [source[i].data for source in sources for i in range(len(source))]
    rng = np.random.default_rng(0)
    w, h = TILE
    for number in range(count):
        mosaic = np.empty((height + h, width + w, 3), np.uint8)
        for top in range(0, height, h):
            for left in range(0, width, w):
                photo = photos[rng.integers(len(photos))]
                y = rng.integers(photo.shape[0] - h + 1)
                x = rng.integers(photo.shape[1] - w + 1)
                tile = photo[y : y + h, x : x + w]
                mosaic[top : top + h, left : left + w] = tile
        image = Image.fromarray(mosaic[:height, :width])
        image.save(folder / f"{number:03}.jpg", quality=90)


def our_batches(folder: Path, workers: int) -> Iterator:
    """`Pipeline` with two threads, or two processes of one."""
    from i2i_prior.data.pipeline import DataOptions, Pipeline
    from i2i_prior.data.sources.registry import open_source

    options = DataOptions.of(
        image_size=SIDE,
        batch_size=BATCH,
        threads=1 if workers else 2,
        workers=workers,
        prefetch=4,
    )
    pipeline = Pipeline(open_source(f"folder:{folder}"), options)
    return pipeline.batches_from(0)


class Files:
    """A data set as torch users write it, with Pillow alone."""

    def __init__(self, folder: Path, resample: Image.Resampling) -> None:
        self._paths = sorted(folder.iterdir())
        self._resample = resample

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        with open(self._paths[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.crop(self._box(*image.size))
        image = image.resize((SIDE, SIDE), self._resample)
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image))
        return pixels.permute(2, 0, 1).contiguous()

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Box of RandomResizedCrop, drawn with torch's generator."""
        import torch

        for _ in range(10):
            share = torch.empty(1).uniform_(0.25, 1.0).item()
            span = np.log((3 / 4, 4 / 3))
            ratio = np.exp(torch.empty(1).uniform_(*span).item())
            w = round((width * height * share * ratio) ** 0.5)
            h = round((width * height * share / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                top = torch.randint(0, height - h + 1, (1,)).item()
                left = torch.randint(0, width - w + 1, (1,)).item()
                return left, top, left + w, top + h
        return 0, 0, width, height


def torch_batches(folder: Path, resample: Image.Resampling) -> Iterator:
    """An endless DataLoader."""
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    torch.manual_seed(0)
    files = Files(folder, resample)
    forever = RandomSampler(files, replacement=True, num_samples=1 << 30)
    return iter(DataLoader(files, BATCH, sampler=forever, num_workers=2))


def work(program: str, name: str) -> None:
    """Runs a worker over the files of a folder."""
    folder = Path(name)
    cpu = [0.0]
    make = {
        "ours": lambda: our_batches(folder, 0),
        "ours_2p": lambda: our_batches(folder, 2),
        "torch": lambda: torch_batches(folder, Image.Resampling.BICUBIC),
        "bilinear": lambda: torch_batches(folder, Image.Resampling.BILINEAR),
    }[program]

    def build() -> Run:
        batches = make()

        def run(steps: int) -> None:
            before = seconds_of(os.getpid())
            for _ in range(steps):
                next(batches)
            cpu[0] = (seconds_of(os.getpid()) - before) / steps

        return run

    serve(build, lambda: {"cpu": cpu[0]})


class WorkerGroup(Worker):
    """A worker with processes of its own, all stopped between its turns."""

    def turn(self, steps: int) -> dict | None:
        self._signal(signal.SIGCONT)
        found = super().turn(steps)
        self._signal(signal.SIGSTOP)
        return found

    def answer(self) -> dict | None:
        found = super().answer()
        self._signal(signal.SIGSTOP)
        return found

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        super().close()

    def _own(self) -> float:
        return seconds_of(self._process.pid)

    def _signal(self, number: int) -> None:
        for pid in descendants(self._process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def descendants(pid: int) -> list[int]:
    """Ids of a process, of its children, and of theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def seconds_of(pid: int) -> float:
    """CPU seconds of a process and its living descendants."""
    ticks = [sum(map(int, _stat(each)[11:13])) for each in descendants(pid)]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rsplit(")", 1)[1].split()


def start(program: str, folder: Path) -> Worker:
    """Starts the process of a program."""
    return WorkerGroup.of_script(__file__, program, folder, threads=2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    names = [f"{w}x{h}" for w, h in SIZES]
    parser.add_argument("--sizes", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=PROGRAMS,
        default=["ours", "torch", "bilinear"],
    )
    parser.add_argument("--others", type=float, default=OTHERS)


def measure(options: argparse.Namespace) -> dict:
    """Figures by size of the files."""
    report: dict[str, Any] = {"cores": first_cores(2), "results": {}}
    for (width, height), (count, steps) in SIZES.items():
        name = f"{width}x{height}"
        if name not in options.sizes:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), width, height, count)
            sizes = [path.stat().st_size for path in Path(folder).iterdir()]
            result = compare(
                {
                    program: functools.partial(start, program, Path(folder))
                    for program in options.programs
                },
                options.rounds,
                steps,
                options.others,
            )
        title = f"{name}, {sum(sizes) / len(sizes) / 1e3:.0f} kB a file"
        show(f"{title}, batches of {BATCH}", result)
        for program, row in result["programs"].items():
            row["images_per_second"] = BATCH / row["median_ms"] * 1e3
            print(f"{program:8} {row['images_per_second']:8.0f} images/s")
        report["results"][name] = result
    return report


if __name__ == "__main__":
    main(__doc__, 9, measure, add_options, work)
