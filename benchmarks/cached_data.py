"""Time of reading prepared latents and embeddings for training.

    PYTHONPATH=. python benchmarks/cached_data.py [--examples 1000000]

Two data sets of random bytes are written first (and kept in --folder):

  - "lumos": 20,000 examples of a 32x32x4 float16 latent and a 768 float16
    embedding. Examples/s of batches of 256, threads as in the config, against
    the same through a torch DataLoader over one .npz a latent (how latent
    data sets of DiT forks are kept), two workers, interleaved.
  - "large": many small examples (4x4x4 latents). Seconds of a cold process,
    with its imports, to the batch of step 0 and of step 900,000; seconds to
    another one within the process; and resident memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 256


def write(folder: Path, count: int, side: int, width: int) -> None:
    """A prepared data set of random arrays; as `i2i-prior prepare` writes."""
    from i2i_prior.data.examples import Field, Layout
    from i2i_prior.data.manifest import MANIFEST, Plan
    from i2i_prior.data.prepare.folder import finish
    from i2i_prior.data.prepare.shards import write_shard

    if (folder / MANIFEST).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"latent": (1, side, side, 4), "embedding/random": (1, 1, width)}
    fields = [Field(n, "array", "float16", s) for n, s in shapes.items()]
    encoder = {"family": "dino", "choice": "cls", "view_size": 224}
    plan = Plan(
        kind="latents",
        fields=Layout([*fields, Field("name", "text")]).to_json(),
        source="random",
        source_fingerprint="0" * 16,
        records=count,
        examples_per_shard=100_000,
        preprocessing={"size": side * 8},
        autoencoder={"kind": "sd", "shape": "", "sha256": ""},
        encoders={"random": {**encoder, "sha256": ""}},
        version="",
    )
    rng = np.random.default_rng(0)

    def made(rows: range) -> Iterator[dict[str, Any]]:
        for start in range(0, len(rows), 1000):
            some = min(1000, len(rows) - start)
            arrays = {
                name: rng.standard_normal((some, *shape)).astype("f2")
                for name, shape in shapes.items()
            }
            for row in range(some):
                example = {name: a[row] for name, a in arrays.items()}
                yield {**example, "name": "x"}

    for shard in range(plan.shard_count):
        examples = made(plan.indices(shard))
        write_shard(folder, plan, shard, examples, tick=lambda records: None)
    finish(folder, plan, max_broken=0)


def write_files(folder: Path, count: int) -> None:
    """Examples of the sizes of "lumos", one .npz each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(len(list(folder.iterdir())), count):
        np.savez(
            folder / f"{index}.npz",
            latent=rng.standard_normal((32, 32, 4)).astype("f2"),
            embedding=rng.standard_normal((1, 768)).astype("f2"),
        )


def timed(stream: Iterator, batches: int) -> float:
    """Seconds of so many batches, after one to warm up."""
    next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return time.perf_counter() - began


def ours(folder: Path, start: int) -> Iterator:
    """Batches of `CachedPipeline` from a step on."""
    from i2i_prior.data.cached import CachedPipeline, CachedSource

    pipeline = CachedPipeline(CachedSource(folder), "random", BATCH, seed=start)
    return pipeline.batches_from(start)


def torch_loader(folder: Path, seed: int) -> Iterator:
    """Batches of a DataLoader with two workers."""
    import torch

    files = sorted(folder.iterdir())

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with np.load(files[index]) as found:
                return found["latent"], found["embedding"]

    loader = torch.utils.data.DataLoader(
        Files(),
        BATCH,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )
    return iter(loader)


COLD = """
import sys, time, os
from i2i_prior.data.cached import CachedPipeline, CachedSource
folder, step, began = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
pipeline = CachedPipeline(CachedSource(folder), "random", {batch}, flip=0.0)
stream = pipeline.batches_from(step)
next(stream)
cold = time.time() - began
stream.close()
again = time.time()
stream = pipeline.batches_from(step + 1000)
next(stream)
warm = time.time() - again
for _ in range(200):
    next(stream)
pages = int(open("/proc/self/statm").read().split()[1])
print(cold, warm, pages * os.sysconf("SC_PAGE_SIZE") / 2**30)
stream.close()
"""


def cold(folder: Path, step: int) -> list[float]:
    """Seconds to the first batch, and GiB resident, of a fresh process."""
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run(
        [
            *(sys.executable, "-c", COLD.format(batch=BATCH)),
            *(str(folder), str(step), str(time.time())),
        ],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    ).stdout
    return [float(number) for number in out.split()]


def main() -> None:
    """Parses the command line, writes what is missing, measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default="runs/cached_data")
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lumos, files = options.folder / "lumos", options.folder / "files"
    write(lumos, 20_000, 32, 768)
    write_files(files, 8_000)
    rows = []
    for number in range(options.rounds):
        batches = 60
        mine = timed(ours(lumos, number * 100), batches)
        theirs = timed(torch_loader(files, number), 20) * batches / 20
        rows.append((batches * BATCH / mine, theirs / mine))
    rates, ratios = zip(*rows, strict=True)
    print(
        f"lumos: {statistics.median(rates):,.0f} examples/s "
        f"({min(rates):,.0f} to {max(rates):,.0f}), "
        f"{statistics.median(ratios):.1f}x torch over .npz files"
    )
    large = options.folder / f"large-{options.examples}"
    write(large, options.examples, 4, 16)
    late = 900_000
    for step in (0, late):
        seconds, warm, memory = map(
            statistics.median,
            zip(*[cold(large, step) for _ in range(3)], strict=True),
        )
        print(
            f"{options.examples:,} examples, step {step}: first batch "
            f"{seconds:.2f} s after the start of the process, another start "
            f"within it {warm * 1e3:.0f} ms, {memory:.2f} GiB resident"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"(this process: {peak:.2f} GiB at most)")


if __name__ == "__main__":
    main()
