"""A few kills of `kills.py`; fifty of them on demand."""

from __future__ import annotations

import pytest

from tests.distributed import kills


# Kills at known moments: test_train.py, test_runs.py.
@pytest.mark.slow
def test_a_run_does_not_notice_that_it_is_killed(tmp_path):
    tally = kills.campaign(kills=3, steps=150, seed=1, place=tmp_path)
    assert tally.kills == 3
    # Steps may be lost only since the last save, or the one under way.
    assert max(tally.lost, default=0) <= 2 * kills.EVERY
