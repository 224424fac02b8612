"""Inception features a second on the CPU: this project against torch.

    PYTHONPATH=. python benchmarks/inception_time.py [--json OUT] [--rounds 9]

uint8 images of 256 x 256 to pool3, resizing included, float32, two threads.
Ours is what `i2i-prior fid` runs, `collect`; the peer is torch-fidelity
0.4.0's module over batches of 8, its fastest here, and both have the same
random weights. `turns` says how it is timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import OTHERS, Worker, compare, first_cores, serve, show

IMAGES, SIDE, BATCH = 64, 256, 8  # images a step, of the peer at once


def pixels() -> np.ndarray:
    """uint8 (N, H, W, 3), the same on both sides."""
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


def start(program: str, threads: int) -> Worker:
    """The process of a program."""
    command = [sys.executable, __file__, "--worker", program, str(threads)]
    environment = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(threads)}
    return Worker(command, first_cores(threads), environment)


def main() -> None:
    """Parses the command line; compares, or works for a comparison."""
    if sys.argv[1:2] == ["--worker"]:
        program, threads = sys.argv[2], int(sys.argv[3])
        build = {
            "ours": our_features,
            "torch": functools.partial(their_features, threads),
        }
        serve(build[program], dict)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--others", type=float, default=OTHERS)
    parser.add_argument("--json", type=Path, help="also write the figures")
    arguments = parser.parse_args()
    programs = {
        name: functools.partial(start, name, arguments.threads)
        for name in ("ours", "torch")
    }
    result = compare(
        programs, arguments.rounds, arguments.steps, arguments.others
    )
    for row in result["programs"].values():
        row["images_per_second"] = IMAGES / row["median_ms"] * 1e3
    show(f"{IMAGES} images of {SIDE} x {SIDE} to pool3", result)
    if arguments.json:
        report = {"threads": arguments.threads, "result": result}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
