"""`SPEC#sample=N`: nested subsets of a source."""

from __future__ import annotations

import pytest

from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError


def names(spec):
    source = open_source(spec)
    return [source[index].name for index in range(len(source))]


def test_samples_are_nested_fixed_and_in_order(photos):
    spec = f"folder:{photos}"
    everything = names(spec)
    before: set[str] = set()
    for count in (1, 5, 12, 24):
        sample = names(f"{spec}#sample={count}")
        assert len(sample) == count
        assert sample == [name for name in everything if name in sample]
        assert before <= set(sample)
        assert sample == names(f"{spec}#sample={count}")
        before = set(sample)
    prints = {
        open_source(f"{spec}#sample={count}").fingerprint()
        for count in (5, 12, 24)
    }
    assert len(prints) == 3
    # Not just the first ones: folders are often sorted by class.
    assert names(f"{spec}#sample=5") != everything[:5]


@pytest.mark.parametrize("sample", ["0", "25", "-1", "half", ""])
def test_a_sample_that_cannot_be_is_refused(photos, sample):
    with pytest.raises(UserError, match="has 24 records, of which"):
        open_source(f"folder:{photos}#sample={sample}")


def test_parts_of_a_mixture_are_sampled(photos):
    part = f"folder:{photos}#sample=3"
    source = open_source(f"mix:0.5*{part} + 0.5*folder:{photos}")
    assert len(source) == 27
