"""Time of one training step on the CPU: this project against PyTorch.

    PYTHONPATH=. python benchmarks/step_time.py [--json OUT] [--rounds 15]

The step is forward, backward and AdamW of a small Lumos model: width 256,
depth 6, 8 heads, patch 2 on 16x16x4 latents (64 tokens), batch 32, one
condition token of 768, MSE over all 8 output channels, two threads.
`interleaved` says how it is timed, `lumos_pair` what runs.

Precisions: "float32" on both sides; "bfloat16_matmul" (bfloat16 operands,
float32 accumulation and activations) against torch.autocast in bfloat16.
"""

from __future__ import annotations

import argparse
import functools
import json
from typing import Any

import lumos_pair
from interleaved import Worker, add_turns, compare, main, serve, show, to_json
from lumos_pair import (
    Setting,
    our_facts,
    our_training,
    torch_facts,
    torch_training,
)


def work(program: str, text: str) -> None:
    """Runs a worker."""
    setting = Setting(**json.loads(text))
    if program == "ours":
        serve(lambda: our_training(setting), our_facts)
    else:
        serve(lambda: torch_training(setting), torch_facts)


def start(program: str, setting: Setting) -> Worker:
    """Starts the process of a program."""
    words = program, to_json(setting)
    return Worker.of_script(__file__, *words, threads=setting.threads)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    add_turns(parser, steps=3)
    lumos_pair.add_options(parser)


def measure(options: argparse.Namespace) -> dict:
    """Figures by precision."""
    results: dict[str, Any] = {}
    base = Setting(unroll=Setting.depth)
    for precision, programs in lumos_pair.settings(options, base):
        starts = {
            name: functools.partial(start, name, setting)
            for name, setting in programs.items()
        }
        results[precision] = compare(
            starts, options.rounds, options.steps, options.others
        )
        show(precision, results[precision])
    return {
        "threads": options.threads,
        "shortcut": options.shortcut,
        "results": results,
    }


if __name__ == "__main__":
    main(__doc__, 15, measure, add_options, work)
