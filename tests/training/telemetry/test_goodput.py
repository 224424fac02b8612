"""Goodput of a run over crashes, waits and rollbacks."""

from __future__ import annotations

import json

import pytest

from i2i_prior.training.telemetry.goodput import GoodputTimer, merge_kinds


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timer(tmp_path, clock):
    """timer(): the timer of a process that starts now."""
    return lambda: GoodputTimer(tmp_path / "goodput.json", clock=clock)


def test_every_second_is_of_one_kind(timer, clock, tmp_path):
    run = timer()
    clock.now += 10
    run.begin(0)
    with run.timed("compile"):
        clock.now += 20
    clock.now += 60
    with run.timed("eval"), run.timed("checkpoint"):
        clock.now += 7

    def full_disk() -> None:
        with run.timed("checkpoint"):
            clock.now += 3
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        full_disk()
    assert run.goodput == pytest.approx(0.6)
    run.save()
    stored = json.loads((tmp_path / "goodput.json").read_text())
    assert stored["goodput"] == 0.6
    assert stored["seconds"] == pytest.approx(
        {"step": 60, "start": 10, "compile": 20, "eval": 7, "checkpoint": 3}
    )


def test_a_crash_costs_what_came_after_the_checkpoint(timer, clock):
    run = timer()
    run.begin(0)
    clock.now += 100
    run.mark(50)
    clock.now += 40
    run.save()  # the last line that was logged
    clock.now += 5  # killed here: not written
    clock.now += 55  # nothing runs
    again = timer()
    clock.now += 10
    again.begin(50)
    clock.now += 190
    assert again.goodput == pytest.approx(290 / 400)
    assert again.seconds == pytest.approx(
        {"step": 290, "lost": 40, "down": 60, "start": 10}
    )
    assert sum(again.seconds.values()) == pytest.approx(400)


def test_a_crash_before_any_checkpoint_loses_all(timer, clock):
    run = timer()
    run.begin(0)
    clock.now += 30
    run.save()
    again = timer()
    again.begin(0)
    assert again.seconds["lost"] == pytest.approx(30)
    assert again.goodput == 0


def test_a_rollback_is_lost_work_too(timer, clock):
    run = timer()
    run.begin(0)
    clock.now += 10
    run.mark(5)
    clock.now += 10
    run.mark(10)
    clock.now += 6
    run.restart()
    clock.now += 2
    run.begin(5)
    assert run.seconds == pytest.approx({"step": 10, "lost": 16, "start": 2})
    # The mark of step 10 went with the work.
    clock.now += 4
    run.restart()
    run.begin(10)
    assert run.seconds["lost"] == pytest.approx(16)


def test_a_run_that_was_done_did_not_wait(timer, clock):
    run = timer()
    run.begin(0)
    clock.now += 10
    run.mark(5)
    run.save(done=True)
    clock.now += 1e6
    longer = timer()
    longer.begin(5)
    clock.now += 10
    assert longer.goodput == pytest.approx(1)


def test_lines_do_not_write_it_each_time(timer, clock, tmp_path):
    run = timer()
    run.begin(0)
    run.save(now=False)
    first = (tmp_path / "goodput.json").read_text()
    clock.now += 9
    run.save(now=False)
    assert (tmp_path / "goodput.json").read_text() == first
    clock.now += 2
    run.save(now=False)
    assert (tmp_path / "goodput.json").read_text() != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": {}}'])
def test_a_damaged_file_begins_anew(timer, clock, tmp_path, text):
    (tmp_path / "goodput.json").write_text(text)
    run = timer()
    run.begin(7)
    clock.now += 5
    assert run.goodput == pytest.approx(1)
    run.save()
    assert timer().seconds["step"] == pytest.approx(5)


def test_a_clock_that_was_set_back_takes_nothing_away(timer, clock):
    run = timer()
    run.begin(0)
    clock.now += 10
    run.save()
    clock.now -= 3600
    again = timer()
    again.begin(0)
    assert again.seconds.get("down", 0) == 0
    assert 0 <= again.goodput <= 1


def test_a_kind_of_an_older_file_goes_on_under_its_new_name(
    timer, clock, tmp_path
):
    run = timer()
    run.begin(0)
    with run.timed("eval"):
        clock.now += 7
    run.save()
    file = tmp_path / "goodput.json"
    file.write_text(file.read_text().replace('"eval"', '"looking"'))
    again = timer()
    with again.timed("eval"):
        clock.now += 3
    assert again.seconds["eval"] == pytest.approx(10)
    assert "looking" not in again.seconds
    assert merge_kinds({"looking": 1.0, "eval": 2.0}) == {"eval": 3.0}
