"""Seconds and peak memory of import and export of Lumos XL/2, and PyTorch's.

    PYTHONPATH=. python benchmarks/handover.py [--rounds 3]

Writes a random state dict of the full shape (822,006,176 parameters, 3.29 GB)
into a temporary folder, then in fresh processes: `i2i-prior import` into a
run directory, `i2i-prior export --format lumos` back, and as the peer a torch
script that reads the same file into the restated module and saves it again.
Rounds are interleaved; medians are printed. Memory is the peak resident set
over the file's size. The exported file must equal the first bit for bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from interleaved import main

from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.files.state_dicts import (
    read_state_dict,
    write_state_dict,
)

PEER = """
import sys, torch
from safetensors.torch import load_file, save_file
from tests.peers.torch_lumos import TorchLumos
with torch.device("meta"):
    model = TorchLumos()
model.load_state_dict(load_file(sys.argv[1]), strict=True, assign=True)
save_file(model.state_dict(), sys.argv[2])
"""


def write_random(file: Path) -> None:
    """A state dict of XL/2 whose numbers are drawn once and repeated."""
    import torch

    from tests.peers.torch_lumos import TorchLumos, sincos_table

    with torch.device("meta"):
        state = TorchLumos().state_dict()
    numbers = np.random.default_rng(0).standard_normal(2**22).astype("f4")

    def tensor(key: str, shape: tuple[int, ...]) -> LazyTensor:
        if key == "pos_embed":
            table = sincos_table(1152, 16, 16, 16).numpy()
            return LazyTensor(shape, lambda: table)
        return LazyTensor(shape, lambda: np.resize(numbers / 50, shape))

    write_state_dict(
        file, ((key, tensor(key, tuple(v.shape))) for key, v in state.items())
    )


def run(*command: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of a process that must succeed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_maxrss * unit


def measure(options: argparse.Namespace) -> dict:
    """Seconds and peak bytes of each command, by round."""
    with tempfile.TemporaryDirectory(prefix="handover-") as folder:
        return compare(Path(folder), options.rounds)


def compare(folder: Path, rounds: int) -> dict:
    """Runs the commands and prints one line for each."""
    first, back = folder / "xl.safetensors", folder / "back.safetensors"
    workdir, peers = folder / "run", folder / "peer.safetensors"
    write_random(first)
    size = first.stat().st_size
    cli = (sys.executable, "-m", "i2i_prior.cli")
    commands = {
        "import": (*cli, "import", str(first), "--workdir", str(workdir)),
        "export": (
            *cli,
            *("export", "--workdir", str(workdir), "--format", "lumos"),
            *("--out", str(back)),
        ),
        "torch, both": (sys.executable, "-c", PEER, str(first), str(peers)),
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for _ in range(rounds):
        shutil.rmtree(workdir, ignore_errors=True)
        for name, command in commands.items():
            found[name].append(run(*command))
    old, new = read_state_dict(first), read_state_dict(back)
    same = set(old) == set(new) and all(
        np.array_equal(old[key], new[key]) for key in old
    )
    print(f"file {size / 1e9:.2f} GB; back bit for bit: {same}")
    for name, runs in found.items():
        seconds = statistics.median(seconds for seconds, _ in runs)
        memory = max(memory for _, memory in runs)
        print(f"{name:12} {seconds:6.1f} s  peak {memory / size:.2f} x file")
    return {"file_bytes": size, "identical": same, "runs": found}


if __name__ == "__main__":
    main(__doc__, 3, measure)
