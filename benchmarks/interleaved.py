"""Programs that take turns on one machine, and the ratios of their times.

Conditions of a comparison:
  - Every program is a process of its own that sleeps while another one runs:
    no thread pool spins in the time of another, no allocator is shared. On a
    CPU all are pinned to the same cores.
  - The programs take turns (ours, eager, compile, ours, ...), a few steps a
    turn, and a ratio is the median over rounds of (peer / ours) inside one
    round. Compilation and warm-up are not timed.
  - OpenMP's barriers suffer far more from a busy machine than XLA's pool
    does (9x seen), so a round in which other processes took over 10 % of the
    machine is dropped, and the table has the number of those kept.
  - With one thread the ratios of CPU seconds hold on a busy machine too (with
    more, a pool that spins while it waits counts as work).

A program is a `run(steps)` that takes so many steps and waits for the last.
Benchmarks share the command line of `main`, and start themselves as workers
by `Worker.of_script`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from i2i_prior.training.resilience.cpu_allocator import keep_memory

ROOT = Path(__file__).resolve().parents[1]
OTHERS = 0.1  # share of the machine that other processes may take
WARM_UP = 3  # steps


def serve(
    build: Callable[[], Callable[[int], Any]], facts: Callable[[], dict]
) -> None:
    """Serves turns as a worker: a line of JSON in, a line of JSON out.

    An error before the first turn is written as {"error": ...}. Malloc is set
    as the command line sets it.

    Args:
      build: gives run(steps), which waits for the last step.
      facts: measurements after the steps so far, as peak memory.
    """
    keep_memory()
    try:
        run = build()
        run(WARM_UP)
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        print(json.dumps({"error": text[:500]}), flush=True)
        return
    print(json.dumps(facts()), flush=True)
    for line in sys.stdin:
        steps = int(line)
        start, used = time.perf_counter(), time.process_time()
        run(steps)
        seconds = (time.perf_counter() - start) / steps
        cpu = (time.process_time() - used) / steps
        turn = {"seconds": seconds, "cpu": cpu, **facts()}
        print(json.dumps(turn), flush=True)


class Worker:
    """A process that runs `serve`.

    Args:
      command: of the process.
      cores: cores that it is pinned to; None for all.
      environment: variables that differ from ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        cores: Sequence[int] | None = None,
        environment: dict[str, str] | None = None,
    ):
        def pin() -> None:
            if cores is not None:
                os.sched_setaffinity(0, cores)

        here = str(Path(__file__).parent)
        path = [str(ROOT), here, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                **(environment or {}),
            },
            preexec_fn=pin,
        )

    @classmethod
    def of_script(
        cls,
        script: str,
        *words: Any,
        threads: int = 0,
        environment: dict[str, str] | None = None,
    ) -> Worker:
        """A worker that calls `work(*words)` of a script, see `main`.

        Args:
          script: file of the benchmark.
          words: become text.
          threads: number of cores that it is pinned to; 0 for all.
          environment: variables that differ from ours and JAX_PLATFORMS=cpu.
        """
        command = [sys.executable, script, "--worker", *map(str, words)]
        cores = first_cores(threads) if threads else None
        return cls(
            command, cores, {"JAX_PLATFORMS": "cpu", **(environment or {})}
        )

    def answer(self) -> dict | None:
        """The next line, or None if the process ended (it wrote why)."""
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def turn(self, steps: int) -> dict | None:
        """`serve`'s answer, with the share of the machine that others took."""
        start, busy, used = time.perf_counter(), busy_seconds(), self._own()
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        found = self.answer()
        if found is None:
            return None
        capacity = (time.perf_counter() - start) * (os.cpu_count() or 1)
        others = busy_seconds() - busy - (self._own() - used)
        return {**found, "others": others / capacity}

    def _own(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        ticks = stat.rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends the process."""
        # A process that ended by itself has closed its end.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def busy_seconds() -> float:
    """CPU seconds that all processes together have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    total = sum(int(field) for field in fields[:8])
    return (total - idle) / os.sysconf("SC_CLK_TCK")


def compare(
    start: dict[str, Callable[[], Worker]],
    rounds: int,
    steps: int,
    others: float = OTHERS,
) -> dict:
    """Milliseconds a step of each program and the ratios to the first.

    Args:
      start: name -> function that starts its worker; the first is ours.
      rounds, steps: of turns, and of one turn.
      others: share of the machine that other processes may take in a round
        that is kept.

    Returns:
      {"rounds": kept, "programs": {name: {median_ms, best_ms, ratio,
      ratio_range, cpu_ratio, and the worker's facts}}, "failed": {name:
      why}}; a program that cannot start (torch.compile without a C++
      compiler, say) has written why, and the others go on.

    Raises:
      SystemExit: if ours did not start, or no round was quiet.
    """
    first = next(iter(start))
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    kept: list[dict[str, dict]] = []
    try:
        for name, make in start.items():
            worker = workers[name] = make()
            answer = worker.answer()
            if answer is None:
                answer = {"error": "it ended; see above"}
            if "error" in answer:
                failed[name] = answer["error"]
                workers.pop(name).close()
        if first not in workers:
            raise SystemExit(f"{first} did not start: {failed[first]}")
        for _ in range(rounds):
            turns = {n: worker.turn(steps) for n, worker in workers.items()}
            if any(turn is None for turn in turns.values()):
                raise SystemExit("a program ended in the middle; see above")
            if max(turn["others"] for turn in turns.values()) <= others:
                kept.append(turns)
    finally:
        for worker in workers.values():
            worker.close()
    if not kept:
        raise SystemExit("no quiet round: the machine is busy, try again")
    programs = {name: _row(kept, name, first) for name in workers}
    return {"rounds": len(kept), "programs": programs, "failed": failed}


def _row(kept: list[dict[str, dict]], name: str, first: str) -> dict:
    series = [turns[name]["seconds"] for turns in kept]
    ratios, cpu = (
        [turns[name][kind] / turns[first][kind] for turns in kept]
        for kind in ("seconds", "cpu")
    )
    facts = {
        key: value
        for key, value in kept[-1][name].items()
        if key not in ("seconds", "cpu", "others")
    }
    return {
        "median_ms": 1e3 * statistics.median(series),
        "best_ms": 1e3 * min(series),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "cpu_ratio": statistics.median(cpu),
        **facts,
    }


def show(title: str, result: dict) -> None:
    """Prints the table of a comparison."""
    print(f"\n{title}, {result['rounds']} rounds kept")
    print("program   median ms   best ms   program/ours (range)   CPU s")
    for name, row in result["programs"].items():
        low, high = row["ratio_range"]
        print(
            f"{name:8} {row['median_ms']:10.1f} {row['best_ms']:9.1f}"
            f"   {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
            f"   {row['cpu_ratio']:.2f}",
            flush=True,
        )


def parse(
    doc: str,
    rounds: int,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Options of a benchmark: --rounds, --json, and its own."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="also write the figures")
    if add_options:
        add_options(parser)
    return parser.parse_args()


def add_turns(parser: argparse.ArgumentParser, steps: int = 1) -> None:
    """Adds the options of `compare` on a CPU."""
    add = parser.add_argument
    add("--steps", type=int, default=steps, help="steps a turn")
    add("--threads", type=int, default=2)
    add("--others", type=float, default=OTHERS, help="share of the machine")


def main(
    doc: str,
    rounds: int,
    measure: Callable[[argparse.Namespace], dict],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    work: Callable[..., None] | None = None,
) -> None:
    """Runs a benchmark, or a worker of it that `Worker.of_script` started.

    Args:
      doc: docstring of the script, for --help.
      rounds: default of --rounds.
      measure: (options) -> figures, which are written to --json.
      add_options: adds the options that are its own.
      work: a worker, called with the words given to `Worker.of_script`.
    """
    if work and sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    options = parse(doc, rounds, add_options)
    report = measure(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def first_cores(threads: int) -> list[int]:
    """The first cores that this process may use."""
    return sorted(os.sched_getaffinity(0))[:threads]


def to_json(value: Any) -> str:
    """A dataclass as a word of a command line."""
    return json.dumps(dataclasses.asdict(value))
