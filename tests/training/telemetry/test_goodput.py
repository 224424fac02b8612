"""Where the time of a run went, over crashes, waits and rollbacks."""

from __future__ import annotations

import json

import pytest

from i2i_prior.training.telemetry.goodput import Ledger


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
def ledger(tmp_path, clock):
    """ledger(): what a process that starts now opens."""
    return lambda: Ledger(tmp_path / "goodput.json", clock=clock)


def test_every_second_is_of_one_kind(ledger, clock, tmp_path):
    book = ledger()
    clock.now += 10
    book.begin(0)
    with book.spend("compile"):
        clock.now += 20
    clock.now += 60
    with book.spend("looking"), book.spend("checkpoint"):
        clock.now += 7

    def full_disk() -> None:
        with book.spend("checkpoint"):
            clock.now += 3
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        full_disk()
    assert book.goodput == pytest.approx(0.6)
    book.save()
    stored = json.loads((tmp_path / "goodput.json").read_text())
    assert stored["goodput"] == 0.6
    assert stored["seconds"] == pytest.approx(
        {"step": 60, "start": 10, "compile": 20, "looking": 7, "checkpoint": 3}
    )


def test_a_crash_costs_what_came_after_the_checkpoint(ledger, clock):
    book = ledger()
    book.begin(0)
    clock.now += 100
    book.mark(50)
    clock.now += 40
    book.save()  # the last line that was logged
    clock.now += 5  # killed here: nobody knows
    clock.now += 55  # nothing runs
    again = ledger()
    clock.now += 10
    again.begin(50)
    clock.now += 190
    assert again.goodput == pytest.approx(290 / 400)
    assert again.seconds == pytest.approx(
        {"step": 290, "lost": 40, "down": 60, "start": 10}
    )
    assert sum(again.seconds.values()) == pytest.approx(400)


def test_a_crash_before_any_checkpoint_loses_all(ledger, clock):
    book = ledger()
    book.begin(0)
    clock.now += 30
    book.save()
    again = ledger()
    again.begin(0)
    assert again.seconds["lost"] == pytest.approx(30)
    assert again.goodput == 0


def test_a_rollback_is_lost_work_too(ledger, clock):
    book = ledger()
    book.begin(0)
    clock.now += 10
    book.mark(5)
    clock.now += 10
    book.mark(10)
    clock.now += 6
    book.restart()
    clock.now += 2
    book.begin(5)
    assert book.seconds == pytest.approx({"step": 10, "lost": 16, "start": 2})
    # The mark of step 10 went with the work.
    clock.now += 4
    book.restart()
    book.begin(10)
    assert book.seconds["lost"] == pytest.approx(16)


def test_a_run_that_was_done_did_not_wait(ledger, clock):
    book = ledger()
    book.begin(0)
    clock.now += 10
    book.mark(5)
    book.save(done=True)
    clock.now += 1e6
    longer = ledger()
    longer.begin(5)
    clock.now += 10
    assert longer.goodput == pytest.approx(1)


def test_lines_do_not_write_it_each_time(ledger, clock, tmp_path):
    book = ledger()
    book.begin(0)
    book.save(now=False)
    first = (tmp_path / "goodput.json").read_text()
    clock.now += 9
    book.save(now=False)
    assert (tmp_path / "goodput.json").read_text() == first
    clock.now += 2
    book.save(now=False)
    assert (tmp_path / "goodput.json").read_text() != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": {}}'])
def test_a_damaged_file_begins_anew(ledger, clock, tmp_path, text):
    (tmp_path / "goodput.json").write_text(text)
    book = ledger()
    book.begin(7)
    clock.now += 5
    assert book.goodput == pytest.approx(1)
    book.save()
    assert ledger().seconds["step"] == pytest.approx(5)


def test_a_clock_that_was_set_back_takes_nothing_away(ledger, clock):
    book = ledger()
    book.begin(0)
    clock.now += 10
    book.save()
    clock.now -= 3600
    again = ledger()
    again.begin(0)
    assert again.seconds.get("down", 0) == 0
    assert 0 <= again.goodput <= 1
