"""Results as JSON, as a line and as a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.pairs import measure_pairs, pair_functions
from i2i_prior.evaluation.result import (
    extremes_picture,
    format_line,
    write_result,
)
from i2i_prior.evaluation.sets.collect import Collected

RESULT = {
    "metrics": {"FID": 12.3456, "KID": 0.00123456, "PSNR": np.inf},
    "intervals": {
        "FID": {"low": 12.1356, "high": 12.5556, "level": 0.95, "method": "x"}
    },
    "extractor": {"name": "inception", "weights_sha256": "6726825d" + "0" * 56},
    "preset": {"name": "adm"},
    "reference": {"file": "/data/VIRTUAL.npz", "hash": "ab" * 32},
    "num_samples": np.int64(50000),
    "notes": (),
}


def test_the_line_has_all_that_a_paper_needs():
    assert format_line(RESULT) == (
        "FID 12.35 +- 0.21 (95 %), KID 0.001235, PSNR inf, N 50000, preset "
        "adm, reference VIRTUAL.npz (abababab), weights 6726825d"
    )
    pixels = {**RESULT, "preset": None, "num_samples": None}
    pixels["extractor"] = {"name": "colour_texture"}
    assert format_line(pixels).endswith(
        "N not said, reference VIRTUAL.npz (abababab), features colour_texture"
    )


def test_json_is_plain_and_whole(tmp_path):
    path = tmp_path / "deep" / "result.json"
    write_result(path, RESULT)
    found = json.loads(path.read_text())
    assert found["metrics"] == {"FID": 12.3456, "KID": 0.00123456, "PSNR": None}
    assert found["num_samples"] == 50000
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_the_picture_shows_the_nearest_and_the_farthest():
    known = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    drawn = np.array([[9.0, 0.0], [0.0, 0.0], [5.0, 0.0]], np.float32)
    sheet = extremes_picture(
        Collected({}, {"x": known}),
        Collected({}, {"x": drawn}),
        "x",
        lambda row: np.full((48, 48, 3), 100 + row, np.uint8),
        lambda row: np.full((96, 96, 3), 10 + row, np.uint8),
        columns=2,
    )
    # Two columns of 96 and margins of 2, from the right; four rows.
    centres = [
        (2 + 98 * r + 48, -(2 + 98 * (1 - c) + 48))
        for r in range(4)
        for c in (0, 1)
    ]
    shown = [int(sheet[place][0]) for place in centres]
    assert shown == [11, 10, 100, 101, 12, 10, 100, 101]


def test_pairs_are_compared_one_by_one():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 250, (3, 16, 16, 3)).astype(np.uint8)
    rows = [image[None] for image in images]
    other = [row + np.uint8(5) for row in rows]
    done = []
    functions = pair_functions(("psnr", "ssim"))
    found = measure_pairs(rows, other, functions, done.append)
    assert found["PSNR"] == pytest.approx(10 * np.log10(255**2 / 25))
    assert 0.99 < found["SSIM"] < 1
    assert done == [3]
    with pytest.raises(UserError, match="PSNR and SSIM need pairs, and one"):
        measure_pairs(rows, other[:2], functions)
    with pytest.raises(UserError, match="as 16 x 16 and 16 x 8; give --size"):
        measure_pairs(rows, [row[:, :8] for row in other], functions)
    with pytest.raises(UserError, match="give --lpips-weights FILE"):
        pair_functions(("lpips",))
