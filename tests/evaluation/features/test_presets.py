"""Protocols: what they record, and how they scale pixels."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.presets import PRESETS, find_preset


def test_records_are_json_and_all_different():
    texts = [json.dumps(dataclasses.asdict(p)) for p in PRESETS.values()]
    assert len({*texts}) == len(PRESETS) == 4
    assert json.loads(texts[0])["ddof"] == 1


def test_a_preset_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["adm"].resize = "pil_bicubic"
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["adm"]


def test_normalised_pixels():
    levels = np.array([0.0, 128.0, 255.0])
    found = PRESETS["adm"].normalise(levels)
    assert found.tolist() == [-1.0, 0.0, 127 / 128]
    found = PRESETS["pytorch_fid"].normalise(levels)
    np.testing.assert_allclose(found, [-1.0, 1 / 255, 1.0], atol=1e-15)


def test_an_unknown_preset():
    with pytest.raises(UserError, match="adm, edm2, pytorch_fid, clean"):
        find_preset("fid")
