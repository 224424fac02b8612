"""Training steps on one accelerator: this project against PyTorch.

    PYTHONPATH=. python benchmarks/accelerator.py --json OUT
    PYTHONPATH=. python benchmarks/accelerator.py --platform tpu --peers
    PYTHONPATH=. python benchmarks/accelerator.py --platform cpu --sizes tiny

The same Lumos model at 256 pixels (latents 32 x 32 x 4) on both sides,
forward, backward and AdamW in bfloat16; `lumos_pair` says what runs. In one
run, in this order:

  1. the dense bfloat16 peak, by a chain of large matmuls on both sides; the
     higher of the two is what MFU is measured against;
  2. each of --sizes at --batch: ours and --peers in turns, a process each
     (`interleaved`), milliseconds a step, images/s, MFU, peak memory;
  3. the largest of --sizes over --batches, each program alone on the device,
     until one does not fit: the largest that fits, the best images/s.

MFU counts the FLOPs that a program needs: ours 13.8 % less in XL/2 than
PyTorch's, which computes q and k of the cross-attention to one token
(--shortcut takes them out there too). Nothing computed twice is counted.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import interleaved
from interleaved import Worker, compare, serve, show, to_json
from lumos_pair import (
    CONDITION,
    Run,
    Setting,
    our_facts,
    our_training,
    torch_facts,
    torch_training,
)

from i2i_prior.models import presets

CHAIN = 16  # matmuls in a row, so that their launch does not count
SIZES = {"tiny": (2, 64, 4), **presets.SIZES}


def flops(setting: Setting, shortcut: bool) -> float:
    """FLOPs that a step needs, without recomputation."""
    import jax
    import jax.numpy as jnp

    from i2i_prior.flops.cost import training_flops
    from i2i_prior.flops.trace import count_macs
    from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
    from i2i_prior.models.dit import DiT, DiTConfig
    from i2i_prior.models.functional import make_functional

    # Other forms of attention hide their products in a kernel.
    shape = {**setting.shape, "attention": "xla", "precision": "float32"}
    config = DiTConfig(**shape, one_token=shortcut)
    condition = ConditionerConfig(CONDITION, setting.width)
    dit, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))
    conditioner, _ = make_functional(
        lambda rngs: Conditioner(condition, rngs=rngs)
    )

    def forward(dits: dict, conditioners: dict, x, timestep, embeddings):
        tokens = conditioner.merge(conditioners)(embeddings)
        return dit.merge(dits)(x, timestep, tokens)

    side = config.input_size
    inputs = [
        jax.ShapeDtypeStruct(size, jnp.float32)
        for size in ((1, side, side, config.channels), (1,), (1, 1, CONDITION))
    ]
    macs = count_macs(forward, dit.shapes(), conditioner.shapes(), *inputs)
    return setting.batch * training_flops(macs)


def our_matmul(size: int) -> Run:
    """A chain of bfloat16 (size, size) products, as XLA does them."""
    import jax
    import jax.numpy as jnp

    # Random, since constant data would let a GPU clock higher.
    x, w = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
    w = w / size**0.5

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, CHAIN, lambda _, x: x @ w, x)

    def run(steps: int) -> float:
        out = x
        for _ in range(steps):
            out = chain(out, w)
        return float(out[0, 0])

    return run


def torch_matmul(size: int, device: str) -> Run:
    """The same in PyTorch."""
    import torch

    options: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
    x = torch.randn((size, size), **options)
    w = torch.randn((size, size), **options) / size**0.5

    def run(steps: int) -> float:
        out = x
        for _ in range(CHAIN * steps):
            out = out @ w
        return float(out[0, 0])

    return run


def work(program: str, text: str, side: str) -> None:
    """Runs a worker; `side` is of the matmuls' matrices."""
    setting, size = Setting(**json.loads(text)), int(side)
    ours = program.startswith("ours")
    if ours:  # as the command line does, before JAX is imported
        from i2i_prior.parallel import xla_flags

        xla_flags.apply()
    build: Callable[[], Run]
    if program == "ours matmul":
        build = functools.partial(our_matmul, size)
    elif program == "torch matmul":
        build = functools.partial(torch_matmul, size, setting.device)
    else:
        build = functools.partial(
            our_training if ours else torch_training, setting
        )

    def facts() -> dict:
        if not ours:
            return torch_facts()
        counts = {
            "flops": flops(setting, True),
            "peer_flops": flops(setting, setting.shortcut),
        }
        return {**our_facts(), **counts}

    serve(build, facts)


def start(program: str, setting: Setting, options: Any, alone: bool) -> Worker:
    """Starts the process of a program.

    Args:
      program: ours, a peer, or one of the two matmuls.
      setting: what it trains.
      options: of the command line.
      alone: True if it may take the whole memory of the device.
    """
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    if not alone:
        # The other side needs the same memory at the same time.
        memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return Worker.of_script(
        __file__,
        *(program, to_json(setting), options.matmul),
        environment={"JAX_PLATFORMS": options.platform, **memory},
    )


def setting_of(size: str, batch: int, options: Any) -> Setting:
    """The setting of a size and a batch."""
    depth, width, heads = SIZES[size]
    return Setting(
        depth=depth,
        width=width,
        heads=heads,
        input_size=8 if size == "tiny" else 32,
        batch=batch,
        precision="bfloat16",
        remat=options.remat,
        unroll=options.unroll,
        shortcut=options.shortcut,
        device="cpu" if options.platform == "cpu" else "cuda",
    )


def timed(programs: list[str], setting: Setting, options: Any, alone=False):
    """Compares programs at one setting; every round is kept."""
    makers = {
        name: functools.partial(
            start,
            name,
            replace(setting, compiled=name == "compile"),
            options,
            alone,
        )
        for name in programs
    }
    rounds = 1 if alone else options.rounds
    return compare(makers, rounds, options.steps, others=float("inf"))


def rate(row: dict, batch: int, flops_per_image: float, peak: float) -> dict:
    """Adds images/s and MFU to a program's row."""
    images = batch / (row["median_ms"] / 1e3)
    row |= {"batch": batch, "images_per_second": images}
    row["mfu"] = images * flops_per_image / peak
    return row


def measure_peak(options: Any) -> dict[str, float]:
    """FLOP/s of the matmuls, each side's best."""
    names = ["ours matmul"] + ["torch matmul"] * bool(options.peers)
    result = timed(names, setting_of("tiny", 1, options), options)
    work = CHAIN * 2 * options.matmul**3
    return {
        name: work / (row["best_ms"] / 1e3)
        for name, row in result["programs"].items()
    }


def per_size(size: str, options: Any, peak: float) -> dict:
    """Compares ours and the peers at one size, and prints it."""
    setting = setting_of(size, options.batch, options)
    result = timed(["ours", *options.peers], setting, options)
    show(f"{size}, batch {options.batch}", result)
    ours = result["programs"]["ours"]
    result["flops_per_image"] = {
        name: ours["flops" if name == "ours" else "peer_flops"] / options.batch
        for name in ["ours", *options.peers]
    }
    for name, row in result["programs"].items():
        rate(row, options.batch, result["flops_per_image"][name], peak)
        print(_line(size, name, row), flush=True)
    return result


def _line(size: str, program: str, row: dict) -> str:
    return (
        f"{size:4} {program:8} batch {row['batch']:5} "
        f"{row['images_per_second']:9.1f} images/s, MFU {row['mfu']:.3f}, "
        f"{row['peak_bytes'] / 2**30:.2f} GiB"
    )


def search(
    size: str, options: Any, flops_per_image: dict[str, float], peak: float
) -> dict[str, dict]:
    """Each program over --batches, alone, until one does not fit.

    Returns:
      program -> {"rows", and of these "largest" and "best" where one fits}.
    """
    found: dict[str, dict] = {}
    for program, count in flops_per_image.items():
        rows: list[dict] = []
        found[program] = {"rows": rows}
        for batch in options.batches:
            setting = setting_of(size, batch, options)
            try:
                result = timed([program], setting, options, alone=True)
            except SystemExit as why:
                rows.append({"batch": batch, "error": str(why)})
                break
            row = rate(result["programs"][program], batch, count, peak)
            rows.append(row)
            print(_line(size, program, row), flush=True)
        fitting = [row for row in rows if "error" not in row]
        if fitting:
            found[program]["largest"] = fitting[-1]["batch"]
            found[program]["best"] = max(
                fitting, key=lambda row: row["images_per_second"]
            )
    return found


def versions() -> dict[str, str]:
    """Versions of the compared packages."""
    found = {}
    for name in ("jax", "jaxlib", "flax", "optax", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    add = parser.add_argument
    add("--platform", default="cuda", choices=["cuda", "tpu", "cpu"])
    add("--sizes", nargs="+", default=["s", "b", "l", "xl"], choices=SIZES)
    add("--batch", type=int, default=32, help="images a step in the turns")
    add("--batches", nargs="*", type=int, default=[32, 48, 64, 96, 128, 192])
    add("--peers", nargs="*", default=["compile"], help="compile, eager")
    add("--steps", type=int, default=10, help="steps a turn")
    add("--matmul", type=int, default=8192, help="side of the peak's matrices")
    add("--remat", default="none", help="of ours")
    add("--unroll", type=int, default=1, help="of ours, layers an iteration")
    add("--shortcut", action="store_true", help="torch skips q and k too")


def measure(options: argparse.Namespace) -> dict:
    """Figures of the peak, of each size, and of each batch size."""
    report: dict[str, Any] = {"versions": versions(), "sizes": {}}
    report["options"] = {k: v for k, v in vars(options).items() if k != "json"}
    report["peak_flops"] = measure_peak(options)
    peak = max(report["peak_flops"].values())
    print(f"bfloat16 matmul: {peak / 1e12:.1f} TFLOP/s")
    for size in options.sizes:
        report["sizes"][size] = per_size(size, options, peak)
    counts = report["sizes"][size]["flops_per_image"]
    report["batches"] = search(size, options, counts, peak)
    return report


if __name__ == "__main__":
    interleaved.main(__doc__, 5, measure, add_options, work)
