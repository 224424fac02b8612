"""Trace of a few steps, `--profile-steps FIRST:LAST`, and its summary.

A summary has the time of the top operations, and time by kind. It reads the
XSpace files (`*.xplane.pb`) that `jax.profiler` writes. A device is a plane:
`/device:TPU:0` with its operations on the line "XLA Ops"; `/device:GPU:0` with
kernels on lines "Stream #..."; on CPU, operations are those events of
`/host:CPU` that carry an `hlo_op`.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.training.telemetry.goodput import GoodputTimer

SUMMARY = "summary.txt"
_TOP = 15  # operations in the table
HOST = "host"
OTHER = "elementwise"  # and reductions, and all that matches nothing below
# First match wins, in the names of compilers and of kernels' authors.
KINDS: tuple[tuple[str, str], ...] = (
    (
        "collective",
        r"all.?reduce|all.?gather|reduce.?scatter|all.?to.?all|collective"
        r"|nccl|^send|^recv",
    ),
    ("attention", r"attention|fmha|flash|splash|sdpa"),
    (
        "matmul",
        r"\bdot|_dot|gemm|matmul|einsum|cublas|cutlass|nvjet|xmma"
        r"|conv(?!ert)|ynn_fusion|xnn_fusion|onednn",  # the last three: CPU
    ),
    (
        "copy",
        r"^(wrapped_)?(copy|memcpy|memset|transpose|bitcast|reshape|slice|pad"
        r"|concatenate|dynamic.(update.)?slice)|data formatting",
    ),
)
# Containers: their time is that of the operations inside.
_CONTAINERS = re.compile(r"^(while|call|conditional|tuple|async)\b")


def parse_steps(text: str, steps: int) -> tuple[int, int]:
    """Parses "10:15" into (10, 15), first and last update of a trace;
    UserError for anything else, or if the run of `steps` ends before FIRST."""
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        if int(first) > steps:
            raise UserError(
                f"--profile-steps {text} begins after the run's last step, "
                f"{steps}; choose earlier ones"
            )
        return int(first), int(last)
    raise UserError(
        f"--profile-steps takes FIRST:LAST, as 10:15 for the updates 10 to "
        f"15, not {text!r}"
    )


class StepProfiler:
    """Traces the steps asked for, once, into folder/FIRST.

    The trace is one of `jax.profiler` (open it in XProf or Perfetto); its
    summary is printed and written to folder/summary.txt. `steps` are the first
    and last update, both traced; None for no trace.
    """

    def __init__(
        self, folder: Path, steps: tuple[int, int] | None, timer: GoodputTimer
    ) -> None:
        self._folder, self._timer = folder, timer
        self._first, self._last = steps or (0, 0)
        self._begun = 0  # the step that a running trace began with

    @contextmanager
    def step(self, number: int, drain: Callable[[], None]) -> Iterator[None]:
        """Traces the dispatch of update `number` (from 1), if asked for.

        `drain` waits for the steps dispatched before, so that the trace holds
        only those asked for.
        """
        if not self._first <= number <= self._last:
            if self._begun:
                drain()
                self.close()
            yield
            return
        if not self._begun:
            drain()
            self._begun = number
            with self._timer.timed("profile"):
                jax.profiler.start_trace(self._folder / str(number))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def close(self) -> None:
        """Ends a running trace and writes its summary, or notes that none of
        the steps asked for was taken."""
        if self._last and not self._begun:
            runtime.print_once(
                f"--profile-steps {self._first}:{self._last}: none of them "
                "was taken this time, so nothing is traced"
            )
            self._last = 0
        if not self._begun:
            return
        folder, self._begun, self._last = self._folder / str(self._begun), 0, 0
        with self._timer.timed("profile"):
            jax.profiler.stop_trace()
            if runtime.is_primary():
                text = summarise(folder)
                (self._folder / SUMMARY).write_text(text + "\n")
                runtime.print_once(text)


@dataclass(frozen=True)
class Operation:
    """One execution of an operation; times in nanoseconds."""

    name: str
    kind: str
    start: float
    end: float
    own: float  # duration without operations nested inside it


def summarise(folder: Path) -> str:
    """Summarises the newest trace that `jax.profiler` wrote below a folder."""
    files = sorted(Path(folder).glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        return f"no trace in {folder}"
    devices = read_devices(ProfileData.from_file(str(files[-1])))
    return describe(devices, _TOP)


def read_devices(data: ProfileData) -> list[list[Operation]]:
    """Reads the operations of each device in a trace, in no order."""
    planes = list(data.planes)
    accelerators = [
        [
            operation
            for line in plane.lines
            if line.name == "XLA Ops" or line.name.startswith("Stream #")
            for operation in _line(line.events)
        ]
        for plane in planes
        if re.fullmatch(r"/device:(TPU|GPU):\d+", plane.name)
    ]
    found = [device for device in accelerators if device]
    if found:
        return found
    host = [
        operation
        for plane in planes
        if plane.name == "/host:CPU"
        for line in plane.lines
        for operation in _line(
            e for e in line.events if "hlo_op" in dict(e.stats)
        )
    ]
    return [host] if host else []


def describe(devices: list[list[Operation]], top: int) -> str:
    """Formats two tables with shares of time: top operations, and kinds.

    The time of `host` is that in which a device was idle.
    """
    if not devices:
        return "the trace holds no operations"
    runs: dict[str, list[Operation]] = {}
    kinds: dict[str, float] = defaultdict(float)
    for operation in itertools.chain(*devices):
        runs.setdefault(operation.name, []).append(operation)
        kinds[operation.kind] += operation.own
    kinds[HOST] += sum(map(_idle, devices))
    total = sum(kinds.values()) or 1.0
    times = {n: sum(one.own for one in ones) for n, ones in runs.items()}
    lines = ["share    time/device    runs  kind         operation"]
    each = 1e6 * len(devices)  # nanoseconds of all to milliseconds of one
    for name, time in sorted(times.items(), key=lambda pair: -pair[1])[:top]:
        lines.append(
            f"{time / total:6.1%}{time / each:12.3f} ms"
            f"{len(runs[name]):8}  {runs[name][0].kind:12} {name[:80]}"
        )
    lines.append("\nshare    time/device  kind")
    for kind, time in sorted(kinds.items(), key=lambda pair: -pair[1]):
        lines.append(f"{time / total:6.1%}{time / each:12.3f} ms  {kind}")
    return "\n".join(lines)


def kind_of(name: str, category: str = "", path: str = "") -> str:
    """Kind of an operation: a key of KINDS, or elementwise; `category` and
    `path` are `hlo_category` and `tf_op` of XLA, if the trace has them."""
    for kind, pattern in KINDS:
        if any(re.search(pattern, text, re.I) for text in (name, category)):
            return kind
        if kind == "attention" and re.search(pattern, path, re.I):
            return kind
    return OTHER


def _line(events: Iterable[Any]) -> Iterator[Operation]:
    """Operations of one line, on which events nest but never cross."""
    ordered = sorted(events, key=lambda e: (e.start_ns, -e.duration_ns))
    open_: list[tuple[Any, list[float]]] = []  # event, nested nanoseconds

    def close(until: float) -> Iterator[Operation]:
        while open_ and open_[-1][0].end_ns <= until:
            event, nested = open_.pop()
            yield from _operation(event, event.duration_ns - nested[0])

    for event in ordered:
        yield from close(event.start_ns)
        if open_:
            open_[-1][1][0] += event.duration_ns
        open_.append((event, [0.0]))
    yield from close(float("inf"))


def _operation(event: Any, own: float) -> Iterator[Operation]:
    stats = dict(event.stats)
    name = str(stats.get("hlo_op") or event.name)
    if _CONTAINERS.match(name):
        return
    # The kernel's name is more specific than the operation's.
    kind = kind_of(
        event.name,
        str(stats.get("hlo_category", "")) or name,
        str(stats.get("tf_op", "")),
    )
    yield Operation(name, kind, event.start_ns, event.end_ns, max(own, 0.0))


def _idle(device: list[Operation]) -> float:
    """Nanoseconds without an operation, between the first and the last."""
    ordered = sorted(device, key=lambda one: one.start)
    idle, reached = 0.0, ordered[0].start
    for operation in ordered:
        idle += max(operation.start - reached, 0.0)
        reached = max(reached, operation.end)
    return idle
