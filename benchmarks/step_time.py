"""Time of one training step on the CPU: this project against PyTorch.

    PYTHONPATH=. python benchmarks/step_time.py [--json OUT] [--rounds 15]

The step is forward, backward and AdamW of a small Lumos model: width 256,
depth 6, 8 heads, patch 2 on 16x16x4 latents (64 tokens), batch 32, one
condition token of 768, MSE over all 8 output channels, two threads. `turns`
says how it is timed, `lumos_pair` what runs.

Precisions: "float32" on both sides; "bfloat16_matmul" (bfloat16 operands,
float32 accumulation and activations) against torch.autocast in bfloat16.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

from lumos_pair import (
    Setting,
    our_facts,
    our_training,
    torch_facts,
    torch_training,
)
from turns import OTHERS, Worker, compare, first_cores, serve, show, to_json


def work(program: str, setting: Setting) -> None:
    """A worker."""
    if program == "ours":
        serve(lambda: our_training(setting), our_facts)
    else:
        serve(lambda: torch_training(setting), torch_facts)


def start(program: str, setting: Setting) -> Worker:
    """The process of a program."""
    command = [sys.executable, __file__, "--worker", program, to_json(setting)]
    cores = first_cores(setting.threads)
    return Worker(command, cores, {"JAX_PLATFORMS": "cpu"})


def main() -> None:
    """Parses the command line; compares, or works for a comparison."""
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Setting(**json.loads(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--threads", type=int, default=2)
    default = ["float32", "bfloat16_matmul"]
    parser.add_argument("--precisions", nargs="+", default=default)
    parser.add_argument("--shortcut", action="store_true")
    parser.add_argument("--others", type=float, default=OTHERS)
    parser.add_argument("--json", type=Path, help="also write the figures")
    arguments = parser.parse_args()
    report = {"threads": arguments.threads, "shortcut": arguments.shortcut}
    report["results"] = {}
    for precision in arguments.precisions:
        setting = Setting(
            precision=precision,
            threads=arguments.threads,
            shortcut=arguments.shortcut,
            unroll=Setting.depth,
        )
        programs = {
            "ours": setting,
            "eager": setting,
            "compile": replace(setting, compiled=True),
        }
        result = compare(
            {
                name: functools.partial(start, name, chosen)
                for name, chosen in programs.items()
            },
            arguments.rounds,
            arguments.steps,
            arguments.others,
        )
        show(precision, result)
        report["results"][precision] = result
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
