"""Inception features a second on the CPU: this project against torch.

    PYTHONPATH=. python benchmarks/inception_time.py [--json OUT] [--rounds 9]

uint8 images of 256 x 256 to pool3, resizing included, float32, two threads.
Ours is what `i2i-prior fid` runs, `collect`; the peer is torch-fidelity
0.4.0's module over batches of 8, its fastest here, and both have the same
random weights. `interleaved` says how it is timed.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import numpy as np
from interleaved import Worker, add_turns, compare, main, serve, show

IMAGES, SIDE, BATCH = 64, 256, 8  # images a step, of the peer at once


def pixels() -> np.ndarray:
    """Images of both sides, uint8 (N, H, W, 3)."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)


def our_features() -> Callable[[int], None]:
    """run(steps) of the extractor of the preset `adm`."""
    from i2i_prior.evaluation.features.inception_weights import (
        InceptionWeights,
        inception_extractor,
    )
    from i2i_prior.evaluation.features.presets import PRESETS
    from i2i_prior.evaluation.sets.collect import collect
    from tests.peers.torch_inception import random_state

    weights = InceptionWeights(random_state(), "0" * 64, "0" * 64)
    extractor = inception_extractor(weights, PRESETS["adm"], ["pool3"])
    images = pixels()

    def run(steps: int) -> None:
        for _ in range(steps):
            collect([images], extractor, moments=(), keep=("pool3",))

    return run


def their_features(threads: int) -> Callable[[int], None]:
    """run(steps) of torch-fidelity's module."""
    import torch

    from tests.peers.torch_inception import (
        random_state,
        torch_fidelity_inception,
    )

    torch.set_num_threads(threads)
    network = torch_fidelity_inception(random_state(), ["2048"])
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2).contiguous()

    def run(steps: int) -> None:
        with torch.inference_mode():
            for _ in range(steps):
                for start in range(0, IMAGES, BATCH):
                    network(images[start : start + BATCH])

    return run


def work(program: str, threads: str) -> None:
    """Runs a worker."""
    theirs = functools.partial(their_features, int(threads))
    serve(our_features if program == "ours" else theirs, dict)


def start(program: str, threads: int) -> Worker:
    """Starts the process of a program."""
    return Worker.of_script(
        __file__,
        *(program, threads),
        threads=threads,
        environment={"OMP_NUM_THREADS": str(threads)},
    )


def measure(options: argparse.Namespace) -> dict:
    """Figures of both programs."""
    programs = {
        name: functools.partial(start, name, options.threads)
        for name in ("ours", "torch")
    }
    result = compare(programs, options.rounds, options.steps, options.others)
    for row in result["programs"].values():
        row["images_per_second"] = IMAGES / row["median_ms"] * 1e3
    show(f"{IMAGES} images of {SIDE} x {SIDE} to pool3", result)
    return {"threads": options.threads, "result": result}


if __name__ == "__main__":
    main(__doc__, 9, measure, add_turns, work)
