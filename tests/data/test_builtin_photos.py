"""The photographs inside scikit-image and scikit-learn."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from i2i_prior.data import builtin
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError


@pytest.mark.filterwarnings("error")
def test_train_photos_are_large_colour_photographs():
    source = open_source("builtin:photos")
    assert [source[i].name for i in range(len(source))] == list(builtin.TRAIN)
    for i in range(len(source)):
        pixels = source[i].data
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 300
        # Colour: the channels differ.
        assert np.ptp(pixels.mean((0, 1))) > 1
        assert not pixels.flags.writeable
        assert source[i].data is pixels


def test_held_out_photos_are_others():
    source = open_source("builtin:photos/heldout")
    assert len(source) == 3
    assert not set(builtin.TRAIN) & set(builtin.HELD_OUT)
    train = open_source("builtin:photos")
    assert source.fingerprint() != train.fingerprint()
    shapes = {source[i].data.shape for i in range(3)}
    assert (512, 512, 3) in shapes  # astronaut


@pytest.fixture
def without(monkeypatch):
    """Hides packages from builtin."""

    def hide(*packages: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            builtin.importlib.util,
            "find_spec",
            lambda name: None if name in packages else find(name),
        )

    return hide


def test_a_missing_photo_is_passed_over_with_a_warning(without):
    without("sklearn")
    with pytest.warns(UserWarning, match=r"lacks china\.jpg"):
        source = open_source("builtin:photos")
    assert len(source) == 6


def test_no_photo_at_all_is_an_error(without):
    without("sklearn", "skimage")
    with (
        pytest.warns(UserWarning, match="lacks"),
        pytest.raises(UserError, match="install"),
    ):
        open_source("builtin:photos")
