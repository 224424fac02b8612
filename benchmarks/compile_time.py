"""Compile time of a shallow and a deep network, whose layers are scanned.

    PYTHONPATH=. python benchmarks/compile_time.py [--json OUT] [--rounds 3]

Traces, lowers and compiles the train step of a small Lumos model (width 256,
8 heads, 64 tokens, layers scanned) for this machine, at 4 and at 28 layers,
each time in a fresh process without the compile cache, in turns. CPU seconds
are compared too: they hold on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence

from interleaved import Worker, main

DEPTHS = (4, 28)
PHASES = ("trace", "lower", "compile")


def small_config(depth: int, overrides: Sequence[str]):
    """The config of a small Lumos run on pixels, layers scanned."""
    from i2i_prior.config import default_config, set_field

    config = default_config()
    config.data.source = "builtin:photos"
    config.data.image_size = 16
    config.data.batch_size = 32
    config.model.block = "lumos"
    config.model.depth = depth
    config.model.width = 256
    config.model.heads = 8
    config.encoder.depth = 2
    config.encoder.width = 128
    config.encoder.heads = 4
    config.encoder.patch = 8
    config.encoder.image_size = 16
    config.conditioner.expand = 2
    for override in overrides:
        set_field(config, *override.split("=", 1))
    return config


def work(depth: str, *overrides: str) -> None:
    """Prints {phase: [wall seconds, CPU seconds]} as a line of JSON."""
    import jax

    from i2i_prior.parallel.mesh import batch_sharding, make_mesh
    from i2i_prior.training.setup import build

    config = small_config(int(depth), overrides)
    program = build(config, make_mesh(**config.mesh))
    sharding = batch_sharding(program.mesh)
    shape = (config.data.batch_size, 16, 16, 3)
    batch = {
        name: jax.ShapeDtypeStruct(shape, "uint8", sharding=sharding)
        for name in ("image", "view")
    }
    found = {}

    def timed(phase: str, call):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        spent = time.perf_counter() - wall, time.process_time() - cpu
        found[phase] = [round(seconds, 3) for seconds in spent]
        return result

    traced = timed("trace", lambda: program.step.trace(program.abstract, batch))
    lowered = timed("lower", traced.lower)
    timed("compile", lowered.compile)
    print(json.dumps(found), flush=True)


def seconds_of(depth: int, overrides: list[str]) -> dict[str, list[float]]:
    """Phase -> [wall seconds, CPU seconds], of a fresh process."""
    environment = {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    }
    worker = Worker.of_script(
        __file__, depth, *overrides, environment=environment
    )
    found = worker.answer()
    worker.close()
    if found is None:
        raise SystemExit("the program did not compile; see above")
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    parser.add_argument("overrides", nargs="*", help="as model.remat=full")


def measure(options: argparse.Namespace) -> dict:
    """Seconds by depth, and their ratios."""
    rounds = [
        {depth: seconds_of(depth, options.overrides) for depth in DEPTHS}
        for _ in range(options.rounds)
    ]

    def seconds(depth: int, kind: int, phases=PHASES) -> list[float]:
        return [sum(r[depth][p][kind] for p in phases) for r in rounds]

    report: dict = {"rounds": options.rounds, "depths": {}}
    print("layers   wall s    CPU s   (trace, lower, compile: CPU s)")
    for depth in DEPTHS:
        wall, cpu, *parts = (
            statistics.median(values)
            for values in (
                seconds(depth, 0),
                seconds(depth, 1),
                *(seconds(depth, 1, (phase,)) for phase in PHASES),
            )
        )
        listed = ", ".join(f"{part:.1f}" for part in parts)
        print(f"{depth:6} {wall:8.1f} {cpu:8.1f}   ({listed})")
        report["depths"][depth] = {"wall": wall, "cpu": cpu}
    for kind, name in enumerate(("wall", "cpu")):
        pairs = zip(*(seconds(depth, kind) for depth in DEPTHS), strict=True)
        ratio = statistics.median(deep / few for few, deep in pairs)
        report[f"{name}_ratio"] = ratio
        print(f"{DEPTHS[1]} over {DEPTHS[0]} layers, {name}: {ratio:.2f}")
    return report


if __name__ == "__main__":
    main(__doc__, 3, measure, add_options, work)
