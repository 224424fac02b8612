"""Statistics of two processes are those of one, to the last bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from i2i_prior.evaluation.features.registry import pixel_extractor
from i2i_prior.evaluation.sets.collect import BLOCKS, collect
from i2i_prior.evaluation.sets.reference import open_place, open_side

SCRIPT = """
import sys
import numpy as np
from i2i_prior.cli import build_parser
from i2i_prior.distributed import runtime
from tests.distributed.test_collect import collected, from_folder, images

options = build_parser().parse_args(sys.argv[1:])
given = options.coordinator, options.processes, options.process_id
with runtime.session(runtime.find(*given)):
    number, count = options.process_id, options.processes
    found = collected(images()[number::count], (number, count))
    side = from_folder(options.workdir)
    np.savez(
        f"{options.workdir}-{number}.npz",
        cov=found.statistics["features"].cov,
        mean=found.statistics["features"].mean,
        features=found.features["features"],
        counts=[block.count for block in found.blocks["features"]],
        hash=found.hash,
        folder_cov=side.statistics["features"].cov,
        note=side.provenance["note"],
    )
"""


def images() -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (43, 8, 8, 3)).astype(np.uint8)


def collected(rows: np.ndarray, share: tuple[int, int]):
    return collect(
        [rows],
        pixel_extractor("colour_texture"),
        keep=("features",),
        share=share,
    )


def from_folder(place):
    images = open_place(place, skip_broken=True)
    return open_side(images, pixel_extractor("colour_texture"), batch_size=4)


def test_two_processes_collect_as_one(run, tmp_path):
    script = tmp_path / "collects.py"
    script.write_text(SCRIPT)
    (tmp_path / "out").mkdir()
    for number, pixels in enumerate(images()[:9]):
        Image.fromarray(pixels).save(tmp_path / "out" / f"{number}.png")
    (tmp_path / "out" / "3.png").write_bytes(b"")
    run(tmp_path / "out", script=script)
    side = from_folder(tmp_path / "out")
    one = collected(images(), (0, 1))
    wanted = one.statistics["features"]
    assert wanted.count == 43
    found = [np.load(tmp_path / f"out-{number}.npz") for number in (0, 1)]
    for file in found:
        # Of float32 on the way 1e-7 would be left.
        np.testing.assert_allclose(file["mean"], wanted.mean, rtol=1e-13)
        np.testing.assert_allclose(
            file["cov"], wanted.cov, rtol=1e-12, atol=1e-15
        )
        assert np.array_equal(file["features"], one.features["features"])
        assert file["counts"].tolist() == [5, 5, 5] + [4] * (BLOCKS - 3)
        assert str(file["hash"]) == one.hash
        np.testing.assert_allclose(
            file["folder_cov"], side.statistics["features"].cov, rtol=1e-12
        )
        assert str(file["note"]) == side.provenance["note"]
        assert "1 of 9 images" in side.provenance["note"]
    assert np.array_equal(found[0]["cov"], found[1]["cov"])
