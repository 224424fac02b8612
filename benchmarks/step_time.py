"""Time of one training step on the CPU: this project against PyTorch.

    PYTHONPATH=. python benchmarks/step_time.py [--json OUT] [--rounds 15]

The step is forward, backward and AdamW of a small Lumos model: width 256,
depth 6, 8 heads, patch 2 on 16x16x4 latents (64 tokens), batch 32, one
condition token of 768, MSE over all 8 output channels, two threads.

What makes it fair:
  - Every program is a process of its own, pinned to the same cores, that
    sleeps while another one runs: neither thread pool spins in the other's
    time, and no allocator is shared.
  - The programs take turns (ours, eager, compile, ours, ...), a few steps a
    turn, and a ratio is the median over rounds of (peer / ours) inside one
    round. Compilation and warm-up are not timed.
  - OpenMP's barriers suffer far more from a busy machine than XLA's pool
    does (9x seen), so a round in which other processes took over 10 % of the
    machine is thrown away, and the table says how many were kept.
  - All run the same mathematics on the same shapes: `torch_lumos` is the
    parity reference of tests/models/test_lumos_parity.py. PyTorch gets its
    fastest parts: scaled_dot_product_attention and the fused AdamW.
  - Ours skips q and k of a cross-attention to a single token, which is exact
    and which the official PyTorch code does not do. `--shortcut` gives the
    PyTorch programs the same shortcut.

Precisions: "float32" on both sides; "bfloat16_matmul" (bfloat16 operands,
float32 accumulation and activations) against torch.autocast in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SHAPE = {"depth": 6, "width": 256, "heads": 8, "patch": 2, "input_size": 16}
BATCH, CONDITION, CHANNELS = 32, 768, 4
PROGRAMS = ("ours", "eager", "compile")


def random_batch() -> dict:
    """The batch of every program, as NumPy arrays, latents NHWC."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = SHAPE["input_size"]

    def draw(*shape):
        return rng.standard_normal(shape).astype("f4")

    return {
        "x": draw(BATCH, size, size, CHANNELS),
        "timestep": rng.uniform(0, 999, BATCH).astype("f4"),
        "embedding": draw(BATCH, 1, CONDITION),
        "target": draw(BATCH, size, size, 2 * CHANNELS),
    }


def ours(precision: str) -> Callable[[], float]:
    """A function that takes one step; a thread a core of the affinity."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
    from i2i_prior.models.dit import DiT, DiTConfig
    from i2i_prior.models.layers import PRECISIONS

    config = DiTConfig(
        **SHAPE,
        one_token=True,
        precision=precision,
        scan_unroll=SHAPE["depth"],
    )
    conditioning = ConditionerConfig(CONDITION, config.width)
    options = {"rngs": nnx.Rngs(0), "precision": PRECISIONS[precision]}
    conditioner = Conditioner(conditioning, **options)
    model = (DiT(config, rngs=nnx.Rngs(1)), conditioner)
    graphdef, params, buffers = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adamw(1e-4, weight_decay=0.01)

    def loss_of(params, batch):
        dit, conditioner = nnx.merge(graphdef, params, buffers)
        tokens = conditioner(batch["embedding"])
        out = dit(batch["x"], batch["timestep"], tokens)
        return jnp.square(out - batch["target"]).mean()

    def step(state, batch):
        params, moments = state
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    state = (params, optimizer.init(params))
    batch = jax.device_put(random_batch())
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def take() -> float:
        nonlocal state
        state, loss = compiled(state, batch)
        jax.block_until_ready(state)
        return float(loss)

    return take


def peer(
    precision: str, threads: int, compiled: bool, shortcut: bool
) -> Callable[[], float]:
    """The same in PyTorch."""
    import torch
    from torch_lumos import TorchLumos

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = TorchLumos(**SHAPE, condition_width=CONDITION, shortcut=shortcut)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-4,
        weight_decay=0.01,
        fused=True,
    )
    batch = {k: torch.from_numpy(v) for k, v in random_batch().items()}
    x = batch["x"].permute(0, 3, 1, 2).contiguous()
    target = batch["target"].permute(0, 3, 1, 2).contiguous()
    half = precision != "float32"

    def take() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = run(x, batch["timestep"], batch["embedding"])
        loss = torch.nn.functional.mse_loss(out.float(), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return take


def work(arguments: argparse.Namespace) -> None:
    """A worker: builds, warms up, then times a turn a line of stdin."""
    precision, compiled = arguments.precision, arguments.worker == "compile"
    if arguments.worker == "ours":
        take = ours(precision)
    else:
        take = peer(precision, arguments.threads, compiled, arguments.shortcut)
    for _ in range(3):
        loss = take()
    print(f"ready {loss}", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            take()
            times.append(time.perf_counter() - start)
        print(statistics.median(times), flush=True)


def start_worker(
    program: str, precision: str, arguments: argparse.Namespace
) -> subprocess.Popen:
    """The worker's process, pinned to the first cores of ours."""
    cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, __file__, "--worker", program]
    command += ["--precision", precision, "--threads", str(len(cores))]
    command += ["--shortcut"] * arguments.shortcut
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def busy_seconds() -> float:
    """CPU seconds that all processes together have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    total = sum(int(field) for field in fields[:8])
    return (total - idle) / os.sysconf("SC_CLK_TCK")


def turn(worker: subprocess.Popen, steps: int) -> tuple[float, float]:
    """(seconds a step, share of the machine that others took)."""
    stat = Path(f"/proc/{worker.pid}/stat")

    def own() -> float:
        fields = stat.read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    start, busy, used = time.perf_counter(), busy_seconds(), own()
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    seconds = float(worker.stdout.readline())
    capacity = (time.perf_counter() - start) * os.cpu_count()
    others = busy_seconds() - busy - (own() - used)
    return seconds, others / capacity


def compare(precision: str, arguments: argparse.Namespace) -> dict:
    """Milliseconds of each program and their ratios to ours."""
    workers: dict[str, subprocess.Popen] = {}
    times: dict[str, list[float]] = {}
    try:
        for program in PROGRAMS:
            worker = start_worker(program, precision, arguments)
            workers[program] = worker
            # A program that cannot start here (torch.compile without a C++
            # compiler, say) has written why, and the others go on.
            if worker.stdout.readline().startswith("ready"):
                times[program] = []
        if "ours" not in times:
            raise SystemExit("our own program did not start; see above")
        kept = 0
        for _ in range(arguments.rounds):
            turns = {p: turn(workers[p], arguments.steps) for p in times}
            if max(share for _, share in turns.values()) > 0.1:
                continue
            kept += 1
            for program, (seconds, _) in turns.items():
                times[program].append(seconds)
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    if not kept:
        raise SystemExit("no quiet round: the machine is busy, try again")
    result: dict = {"precision": precision, "rounds": kept, "programs": {}}
    for program, series in times.items():
        pairs = zip(series, times["ours"], strict=True)
        ratios = sorted(theirs / our for theirs, our in pairs)
        result["programs"][program] = {
            "median_ms": 1e3 * statistics.median(series),
            "best_ms": 1e3 * min(series),
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
        }
    return result


def show(result: dict) -> None:
    """One table a precision."""
    print(f"\n{result['precision']}, {result['rounds']} quiet rounds")
    print("program   median ms   best ms   program/ours (range)")
    for name, row in result["programs"].items():
        low, high = row["ratio_range"]
        print(
            f"{name:8} {row['median_ms']:10.1f} {row['best_ms']:9.1f}"
            f"   {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        )
    missing = set(PROGRAMS) - result["programs"].keys()
    if missing:
        print(f"not measured: {', '.join(sorted(missing))}")


def main() -> None:
    """Parses the command line; compares, or works for a comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--threads", type=int, default=2)
    default = ["float32", "bfloat16_matmul"]
    parser.add_argument("--precisions", nargs="+", default=default)
    parser.add_argument("--shortcut", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    results = []
    for precision in arguments.precisions:
        results.append(compare(precision, arguments))
        show(results[-1])
    if arguments.json:
        names = ("threads", "shortcut")
        report = {name: getattr(arguments, name) for name in names}
        report["results"] = results
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
