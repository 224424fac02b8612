"""Metric files that survive kills, bars, clocks without pauses, MFU."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest

from i2i_prior.io.progress import Progress
from i2i_prior.training.telemetry.goodput import (
    GoodputTimer,
    Throughput,
    mfu,
    peak_flops,
)
from i2i_prior.training.telemetry.metric_writer import (
    MetricWriter,
    read_metrics,
)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def writer(workdir) -> MetricWriter:
    opened = MetricWriter(workdir, tensorboard=False)
    opened.open()
    return opened


def test_lines_are_appended_and_readable_at_once(tmp_path):
    first = writer(tmp_path / "run")
    first.scalars(10, {"loss": np.float32(0.5), "grad_norm": 2})
    path = tmp_path / "run" / "metrics.jsonl"
    line = json.loads(path.read_text())
    assert list(line) == ["step", "time", "loss", "grad_norm"]
    assert (line["step"], line["loss"]) == (10, 0.5)
    assert line["time"] > 1e9
    first.close()
    second = writer(tmp_path / "run")
    second.scalars(20, {"loss": 0.25})
    second.close()
    assert [x["step"] for x in read_metrics(path)] == [10, 20]
    assert read_metrics(tmp_path / "run") == read_metrics(path)


def test_not_finite_is_valid_json_and_reads_as_nan(tmp_path):
    out = writer(tmp_path)
    out.scalars(1, {"loss": math.nan, "grad_norm": math.inf})
    out.close()
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    (line,) = read_metrics(tmp_path)
    assert math.isnan(line["loss"])
    assert math.isnan(line["grad_norm"])


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\0\0\0\0\n", b'"step"\n']
)
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
    path.write_bytes(whole + torn)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    out = writer(tmp_path)
    assert path.read_bytes() == whole
    out.scalars(3, {"loss": 0.5})
    out.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def test_a_whole_file_is_not_touched(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    before = path.stat().st_mtime_ns
    writer(tmp_path).close()
    assert path.stat().st_mtime_ns == before


def test_later_steps_are_forgotten_when_opened_at_a_step(tmp_path):
    out = writer(tmp_path)
    for step in (10, 20, 30):
        out.scalars(step, {"loss": math.nan if step == 10 else step})
    out.open(20)
    out.scalars(21, {"loss": 7.0})
    out.close()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [10, 20, 21]
    assert math.isnan(lines[0]["loss"])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    fresh = writer(tmp_path / "fresh")
    fresh.open(0)
    fresh.close()
    assert read_metrics(tmp_path / "fresh") == []


def test_no_file_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "absent.jsonl") == []
    assert read_metrics(tmp_path) == []


def test_tensorboard_reads_the_events(tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    out = MetricWriter(tmp_path)
    out.open()
    for step in (1, 2, 3):
        out.scalars(step, {"loss": step / 2})
    out.image(3, "samples", np.full((4, 5, 3), 200, np.uint8))
    out.open(2)
    out.scalars(3, {"loss": 9.0})
    out.close()
    found = events.EventAccumulator(str(tmp_path)).Reload()
    values = [(e.step, e.value) for e in found.Scalars("loss")]
    assert values == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_tensorboard_shows_images(tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    for name, tensorboard in (("with", True), ("without", False)):
        out = MetricWriter(tmp_path / name, tensorboard)
        out.open()
        out.scalars(1, {"loss": 1.0})
        out.image(1, "samples", np.full((4, 5, 3), 200, np.uint8))
        out.close()
    found = events.EventAccumulator(str(tmp_path / "with")).Reload()
    assert found.Tags()["images"] == ["samples"]
    (image,) = found.Images("samples")
    assert (image.height, image.width) == (4, 5)
    assert [p.name for p in (tmp_path / "without").iterdir()] == [
        "metrics.jsonl"
    ]


def test_plain_lines_where_there_is_no_terminal():
    clock, stream = Clock(), io.StringIO()
    bar = Progress(100, 20, "train", stream=stream, clock=clock)
    for step in range(21, 41):
        clock.now += 1
        bar.update(step)
    clock.now += 1
    bar.update(60, loss=0.123456, examples_per_second=512.3, mfu=0.4, x=None)
    bar.update(61)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "train 30/100  ETA 01:10",
        "train 40/100  ETA 01:00",
        "train 60/100  loss 0.1235  512.3 examples/s  MFU 40.0 %  ETA 00:21",
    ]


def test_a_bar_on_a_terminal():
    stream = Terminal()
    bar = Progress(100, 20, "train", stream=stream)
    bar.update(60, loss=0.5)
    bar.update(100, loss=0.25)
    bar.close()
    assert "20/100" in stream.getvalue()
    assert "100/100" in stream.getvalue()
    assert "loss 0.25" in stream.getvalue()
    assert "\r" in stream.getvalue()


def test_throughput_leaves_pauses_out():
    clock = Clock()
    timer = GoodputTimer(None, clock=clock)
    clock.now += 30
    timer.begin(100)
    throughput = Throughput(32, timer, 100)
    with timer.timed("compile"):
        clock.now += 30
    clock.now += 6
    with timer.timed("data_wait"):
        clock.now += 4
    with timer.timed("checkpoint"), timer.timed("samples"):
        clock.now += 20
    found = throughput.window(150)
    assert found == {
        "steps_per_second": pytest.approx(5),
        "examples_per_second": pytest.approx(160),
        "data_wait": pytest.approx(4),
        "goodput": pytest.approx(6 / 90),
    }
    clock.now += 2
    found = throughput.window(154)
    assert found["steps_per_second"] == pytest.approx(2)
    assert found["data_wait"] == 0
    assert found["goodput"] == pytest.approx(8 / 92)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
        ("cpu", None),
        ("TPU v9", None),
    ],
)
def test_peaks(kind, peak):
    assert peak_flops(kind) == peak


def test_mfu():
    assert mfu(197e12, 4.0, 8, "TPU v5 lite") == pytest.approx(0.5)
    assert mfu(1e12, 1.0, 1, "cpu") is None


def test_time_before_a_restart_does_not_count():
    clock = iter([0.0, 100.0, 110.0])
    stream = io.StringIO()
    progress = Progress(11, stream=stream, clock=lambda: next(clock))
    progress.restart(1)  # at 100 s: one step, which compiled
    progress.update(6, loss=1.0)  # 5 steps in 10 s, 5 to go
    assert "ETA 00:10" in stream.getvalue()
