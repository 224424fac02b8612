"""Protocols: what they record, and how samples become pixels."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.presets import PRESETS, find_preset


def test_records_are_json_and_all_different():
    texts = {json.dumps(preset.record()) for preset in PRESETS.values()}
    assert len(texts) == len(PRESETS) == 4
    assert json.loads(json.dumps(PRESETS["adm"].record()))["ddof"] == 1


def test_a_preset_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["adm"].resize = "pil_bicubic"
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["adm"]


def test_the_two_roundings():
    # the middle of level 100 and a hair below that of level 101
    levels = np.array([100.0, 100.999])
    samples = levels / 127.5 - 1
    assert PRESETS["adm"].to_uint8(samples).tolist() == [100, 100]
    assert PRESETS["edm2"].to_uint8(samples).tolist() == [100, 101]
    for preset in PRESETS.values():
        ends = preset.to_uint8(np.array([-7.0, -1.0, 1.0, 7.0, np.inf]))
        assert ends.tolist() == [0, 0, 255, 255, 255]


def test_nan_is_no_grey_level():
    with pytest.raises(UserError, match="NaN"):
        PRESETS["adm"].to_uint8(np.array([0.0, np.nan]))


def test_normalised_pixels():
    levels = np.array([0.0, 128.0, 255.0])
    found = PRESETS["adm"].normalise(levels)
    assert found.tolist() == [-1.0, 0.0, 127 / 128]
    found = PRESETS["pytorch_fid"].normalise(levels)
    np.testing.assert_allclose(found, [-1.0, 1 / 255, 1.0], atol=1e-15)


def test_an_unknown_preset():
    with pytest.raises(UserError, match="adm, edm2, pytorch_fid, clean"):
        find_preset("fid")
