"""Metrics are read late and in order; batches are put ahead and closed."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from i2i_prior.training.input_pipeline import prefetch
from i2i_prior.training.resilience.rollback import LossSpike
from i2i_prior.training.telemetry.goodput import GoodputTimer
from i2i_prior.training.telemetry.metric_buffer import MetricBuffer
from i2i_prior.training.telemetry.metric_writer import (
    MetricWriter,
    read_metrics,
)


@pytest.fixture
def new_buffer(tiny, tmp_path):
    """new_buffer("field=value", ...): begun at step 0."""

    def make(*overrides):
        timer = GoodputTimer(None)
        timer.begin(0)
        writer = MetricWriter(tmp_path, tensorboard=False)
        config = tiny("train.log_every=2", *overrides)
        writer.open()
        made = MetricBuffer(
            config, writer, timer, lambda step: 10.0 + step, 1.0
        )
        made.begin(0)
        return made

    return make


def metrics(loss: float) -> dict:
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(loss / 2)}


def lines(workdir) -> list[tuple]:
    names = "step", "loss", "grad_norm", "learning_rate", "broken"
    return [tuple(x.get(n) for n in names) for x in read_metrics(workdir)]


def test_a_step_is_read_when_two_more_are_dispatched(new_buffer, tmp_path):
    buffer = new_buffer()
    buffer.add(1, metrics(4), {"broken": 0})
    buffer.add(2, metrics(2), {"broken": 1})
    assert lines(tmp_path) == []
    buffer.add(3, metrics(1), {"broken": 1})
    assert lines(tmp_path) == [(1, 4.0, 2.0, 10.0, None)]
    buffer.add(4, metrics(0.5), {"broken": 5})
    # The second step's own values, not what is known by now.
    assert lines(tmp_path)[1:] == [(2, 2.0, 1.0, 11.0, 1.0)]
    buffer.drain()
    assert lines(tmp_path)[2:] == [(4, 0.5, 0.25, 13.0, 5.0)]
    buffer.close()


def test_a_bad_step_is_found_that_no_line_is_due_for(new_buffer, tmp_path):
    buffer = new_buffer()
    for step, loss in ((1, 1.0), (2, 1.0), (3, 11.0), (4, 1.0)):
        buffer.add(step, metrics(loss), {"broken": 0})
    with pytest.raises(LossSpike, match="at step 3") as bad:
        buffer.add(5, metrics(1), {"broken": 0})
    assert bad.value.step == 3
    assert [line[0] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_resumed_run_judges_by_the_lines_that_are_there(new_buffer, tmp_path):
    new_buffer().add(1, metrics(1), {"broken": 0})
    with MetricLines(tmp_path) as writer:
        # Step 5 was logged only because a process began there.
        for step, loss in ((2, 1.0), (4, 1.0), (5, 99.0), (6, 1.0)):
            writer.scalars(step, {"loss": loss})
    buffer = new_buffer()
    buffer.begin(6)
    buffer.add(7, metrics(9), {"broken": 0})
    buffer.add(8, metrics(11), {"broken": 0})
    with pytest.raises(LossSpike, match=r"more than .* the usual 1, at step 8"):
        buffer.drain()


class MetricLines(MetricWriter):
    def __init__(self, workdir):
        super().__init__(workdir, tensorboard=False)
        self.open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Source:
    """Batches 0, 1, 2, ...; notes what was made and whether it was closed."""

    def __init__(self) -> None:
        self.made, self.closed = 0, False

    def batches(self):
        try:
            while True:
                self.made += 1
                yield self.made - 1
        finally:
            self.closed = True


def test_batches_are_put_ahead_in_order():
    source, put = Source(), []
    batches = prefetch(source.batches(), lambda b: put.append(b) or -b, 2)
    assert next(batches) == (0, 0)
    # Two more than the one in use, and no further.
    assert put == [0, 1, 2]
    assert [next(batches) for _ in range(3)] == [(1, -1), (2, -2), (3, -3)]
    assert put == [0, 1, 2, 3, 4, 5]
    assert source.made == 6
    assert not source.closed
    batches.close()
    assert source.closed


def test_the_last_batches_and_errors_come_through():
    found = list(prefetch(iter([7, 8]), lambda b: b + 1, 3))
    assert found == [(7, 8), (8, 9)]

    def broken():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(prefetch(broken(), lambda b: b, 2))
