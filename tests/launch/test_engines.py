"""Names that all engines take, and that stay apart."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.run.store import Sweep
from tests.launch.fixtures_sweeps import planned


@given(st.text(max_size=90), st.text(max_size=90))
@settings(max_examples=50, deadline=None)
def test_names_are_safe_and_stay_two(one, other):
    names = [engines.short_name(text) for text in (one, other)]
    for name in names:
        assert re.fullmatch(r"[a-z](-?[a-z0-9]+)*", name)
        assert len(name) <= engines.LONGEST
    assert (names[0] == names[1]) == (one == other)


def test_good_names_stay_as_they_are():
    assert engines.short_name("w192-1e13-0a1b2c3d") == "w192-1e13-0a1b2c3d"


def test_job_of_a_run_is_named_the_same_each_time(tmp_path):
    long = planned("a-very-long-name-of-many-axes-and-words-0a1b2c3d")
    longer = planned("a-very-long-name-of-many-axes-and-words-0a1b2c3e")
    one, two = (Sweep(tmp_path / name, {}, []) for name in ("one", "two"))
    names = {
        engines.job_name(sweep, run)
        for sweep in (one, two, one)
        for run in (long, longer)
    }
    assert len(names) == 4
    assert all(len(name) <= engines.LONGEST for name in names)
