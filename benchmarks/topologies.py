"""Compiles the shipped configs for their machines: benchmarks/TOPOLOGIES.md.

    python benchmarks/topologies.py

Compiles the training step of each row with `i2i-prior compile`, one after the
other, minutes each; no accelerator is needed. Results are kept in --keep and
reused by the next call, so that a stopped run goes on, and rows of a compiler
that is not installed (`pip install 'i2i-prior[tpu,aot-cuda]'`) can be added
later. Exits 1 if a row does not compile or does not fit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """A config, a machine and a mesh.

    Attributes:
      model: its name in the table.
      config: as --config takes it.
      topology: as --topology takes it.
      mesh: as --mesh takes it.
      overrides: of the config, without --config.
    """

    model: str
    config: str
    topology: str
    mesh: str
    overrides: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the file of its result, without .json."""
        words = (self.config, self.topology, self.mesh, *self.overrides)
        text = "_".join(words).removeprefix("configs/")
        return "".join(c if c.isalnum() or c in "=._" else "-" for c in text)


XL, XXL = "configs/lumos_xl2.py", "configs/lumos_xxl2.py"
ROWS = (
    Row("XL/2, 256 px", XL, "v4:4x4x4", "replica=4,fsdp=16"),
    Row("XL/2, 256 px", XL, "v5e:16x16", "replica=16,fsdp=16"),
    Row("XL/2, 256 px", XL, "v5p:8x8x4", "replica=16,fsdp=16"),
    Row(
        "XL/2, 256 px, cached latents",
        f"{XL}:cached=true",
        "v5p:8x8x4",
        "replica=16,fsdp=16",
    ),
    Row("XL/2, 256 px", XL, "v5p:8x8x4*2", "replica=32,fsdp=16"),
    Row("XL/2, 256 px", XL, "v6e:16x16", "replica=16,fsdp=16"),
    Row("XL/2, 256 px", XL, "h100x8", "fsdp=8", ("train.accumulate=4",)),
    Row("XL/2, 256 px", XL, "h100x64", "replica=8,fsdp=8"),
    Row("XL/2, 256 px", XL, "h200x8", "fsdp=8", ("train.accumulate=2",)),
    Row(
        "XL/2, 1024 px",
        f"{XL}:res=1024",
        "v5p:8x8x4",
        "replica=4,fsdp=16,context=4",
        ("train.accumulate=4",),
    ),
    Row("XXL/2, 256 px", XXL, "v5p:8x8x4", "replica=8,fsdp=16,tensor=2"),
)


def compiled(row: Row, keep: Path, quick: bool) -> dict[str, Any] | None:
    """The result of a row, or None if its compiler is not installed."""
    file = keep / f"{row.file}.json"
    if file.exists():
        return json.loads(file.read_text())
    command = [
        *(sys.executable, "-m", "i2i_prior.cli", "compile"),
        *("--config", row.config, "--topology", row.topology),
        *("--mesh", row.mesh, "--json", str(file)),
        *(["--quick"] if quick else []),
        *(f"--config.{override}" for override in row.overrides),
    ]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if not file.exists():
        print(f"{row.topology}: no result", file=sys.stderr)
        return None
    print(ended.stdout.splitlines()[0], file=sys.stderr)
    return json.loads(file.read_text())


HEAD = """\
# The shipped configs on their machines

Made by

    python benchmarks/topologies.py

which compiles the whole training step with XLA's own TPU and CUDA compilers,
ahead of time and without an accelerator. Peak memory is what the compiler
lays out; **step time, images/s and MFU are estimates** from public peaks (see
below), to be replaced by measurements.

| model | machine | mesh | batch (micro x accum) | remat | peak GiB of | \
step | images/s | MFU | prior only |
|---|---|---|---|---|---|---|---|---|---|
"""


def table(rows: list[tuple[Row, dict[str, Any] | None]]) -> str:
    """The Markdown page."""
    text = HEAD
    done = [(row, result) for row, result in rows if result]
    for row, result in done:
        text += f"| {' | '.join(_cells(row, result))} |\n"
    text += (
        "\nMFU: model FLOPs (no recomputation; the frozen autoencoder's and "
        "image encoder's\nforward passes are part of the step) over step time "
        'x chips x dense bf16 peak.\n"Prior only" counts the FLOPs of DiT '
        "and conditioner alone over the same time.\n\n## Collectives a step "
        "and chip\n\nResult bytes x executions, by mesh axes.\n\n"
        "| program | layer loop | outside | whole layers gathered |\n"
        "|---|---|---|---|\n"
    )
    for row, result in done:
        if result["compiled"]:
            cells = _traffic(result)
            text += f"| {row.model}, {row.topology} | {' | '.join(cells)} |\n"
    text += "\n## What the estimates assume\n"
    for machine in dict.fromkeys(row.topology for row, _ in done):
        result = next(r for row, r in done if row.topology == machine)
        text += f"\n**{machine}**\n\n"
        text += "".join(f"- {line}\n" for line in result["assumptions"])
    versions: dict[str, str] = {}
    for _, result in done:
        versions |= result["versions"]
    names = ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))
    quick = [row.topology for row, result in done if result["low_effort"]]
    if quick:
        text += (
            f"\nCompiled with --quick (on TPU nothing in on-chip memory, so "
            f"more HBM traffic): {', '.join(dict.fromkeys(quick))}.\n"
        )
    return text + f"\nCompiled with {names}.\n"


def _cells(row: Row, result: dict[str, Any]) -> list[str]:
    mesh = " x ".join(f"{n} {s}" for n, s in result["mesh"].items() if s > 1)
    batch = (
        f"{result['batch_size']} ({result['batch_per_shard']:g} x "
        f"{result['accumulate']})"
    )
    cells = [row.model, row.topology, mesh, batch, result["remat"]]
    if not result["compiled"]:
        return [*cells, result["reason"], *["-"] * 4]
    peak = result["peak_bytes_per_chip"] / GIB
    capacity = result["capacity_bytes_per_chip"] / GIB
    return [
        *cells,
        f"{peak:.2f} of {capacity:.2f}" + ("" if result["fits"] else " (!)"),
        f"{result['step_seconds_estimate'] * 1e3:.0f} ms",
        f"{result['images_per_second_estimate']:.0f}",
        f"{result['mfu_estimate']:.0%}",
        f"{result['mfu_estimate_prior']:.0%}",
    ]


def _traffic(result: dict[str, Any]) -> list[str]:
    cells = []
    for where in ("layer loop", "outside"):
        sums: dict[tuple[str, str], float] = {}
        for c in result["collectives"]:
            if c["where"] == where:
                key = c["kind"], "+".join(c["axes"])
                sums[key] = sums.get(key, 0) + c["bytes"] * c["count"] / GIB
        largest = sorted(sums.items(), key=lambda item: -item[1])
        cells.append(
            ", ".join(
                f"{kind} ({axes}) {size:.2f} GiB"
                for (kind, axes), size in largest
                if size >= 0.005
            )
            or "-"
        )
    return [*cells, ", ".join(result["whole_parameters_gathered"]) or "none"]


def main() -> int:
    """Parses the command line; 0 if every row compiled and fits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keep", default="runs/topologies", help="folder")
    parser.add_argument("--only", default="", help="machines that start so")
    parser.add_argument(
        "--quick", action="store_true", help="less effort of the compiler"
    )
    options = parser.parse_args()
    keep = (ROOT / options.keep).resolve()
    keep.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in ROWS:
        file = keep / f"{row.file}.json"
        wanted = row.topology.startswith(options.only) or file.exists()
        rows.append(
            (row, compiled(row, keep, options.quick) if wanted else None)
        )
    page = ROOT / "benchmarks" / "TOPOLOGIES.md"
    page.write_text(table(rows))
    print(f"wrote {page.relative_to(ROOT)}", file=sys.stderr)
    return 0 if all(r and r["compiled"] and r["fits"] for _, r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
