"""Benchmarks run, and both sides of them compute the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

pytest.importorskip("torch")
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def script(tmp_path):
    """Runs a benchmark and returns what it wrote as JSON."""

    def run(name, *arguments):
        out = tmp_path / "out.json"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        # One device, as a benchmark has it, but compiled as in other tests.
        flags = environment["XLA_FLAGS"].split()
        more = "--xla_force_host_platform_device_count"
        kept = [flag for flag in flags if not flag.startswith(more)]
        environment["XLA_FLAGS"] = " ".join(kept)
        environment["OMP_NUM_THREADS"] = "1"
        ended = subprocess.run(
            [sys.executable, FOLDER / name, *arguments, "--json", out],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(out.read_text()), ended.stdout

    return run


@pytest.mark.slow  # its parts are tested below; no run of a user is in it
def test_the_accelerators_harness_at_small_size(script):
    arguments = "--platform cpu --sizes tiny --batch 2 --batches 3"
    arguments += " --rounds 2 --steps 1 --matmul 128 --peers eager"
    report, out = script("accelerator.py", *arguments.split())
    assert set(report["peak_flops"]) == {"ours matmul", "torch matmul"}
    tiny = report["sizes"]["tiny"]
    assert tiny["rounds"] == 2
    peak = max(report["peak_flops"].values())
    for name in ("ours", "eager"):
        row = tiny["programs"][name]
        images = 2 / (row["median_ms"] / 1e3)
        assert row["images_per_second"] == pytest.approx(images)
        flops = images * tiny["flops_per_image"][name]
        assert row["mfu"] == pytest.approx(flops / peak)
        assert row["peak_bytes"] > 2**20
        batches = report["batches"][name]
        assert [row["batch"] for row in batches["rows"]] == [3]
        assert batches["largest"] == 3
        assert f"{'tiny':4} {name:8} batch" in out
    # Two layers without q, out and scores for 16 tokens of 64 channels, nor
    # k: forward and twice backward, two FLOPs a multiply-add.
    skipped = 6 * 2 * (2 * 16 * 64**2 + 2 * 16 * 64)
    eager, ours = (tiny["flops_per_image"][n] for n in ("eager", "ours"))
    assert eager - ours == skipped


def test_a_batch_that_does_not_fit_ends_the_search(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import accelerator
    import interleaved

    def timed(programs, setting, options, alone):
        if setting.batch > 4:
            raise SystemExit("ours did not start: out of memory")
        row = {"median_ms": 10.0 + setting.batch, "peak_bytes": 2**30}
        return {"programs": {programs[0]: row}}

    monkeypatch.setattr(accelerator, "timed", timed)
    words = ["x", "--platform", "cpu", "--batches", "2", "4", "8", "16"]
    monkeypatch.setattr(sys, "argv", words)
    options = interleaved.parse("", 5, accelerator.add_options)
    found = accelerator.search("s", options, {"ours": 1e9}, 1e12)
    rows = found["ours"]["rows"]
    assert [row["batch"] for row in rows] == [2, 4, 8]
    assert "out of memory" in rows[-1]["error"]
    assert found["ours"]["largest"] == 4
    assert found["ours"]["best"]["images_per_second"] == pytest.approx(
        4 / 14e-3
    )


def test_both_samplers_give_the_same_latents(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import sampling_time
    from lumos_pair import Setting

    shape = {"depth": 2, "width": 32, "heads": 2, "input_size": 8}
    setting = Setting(**shape, batch=2, steps=6, guidance=2.0)
    file = tmp_path / "lumos.pth"
    sampling_time.write_weights(setting, file)
    ours, theirs = [], []
    sampling_time.our_sampling(setting, str(file), ours)(1)
    sampling_time.torch_sampling(setting, str(file), theirs)(1)
    assert ours[0].shape == theirs[0].shape == (2, 8, 8, 4)
    assert ours[0].std() > 0.1
    np.testing.assert_allclose(
        theirs[0], ours[0], rtol=0, atol=1e-4 * np.abs(ours[0]).max()
    )


def test_our_step_begins_at_the_loss_of_a_zero_output(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from lumos_pair import Setting, our_training, random_batch

    setting = Setting(depth=1, width=32, heads=2, input_size=4, batch=2)
    loss = our_training(setting)(1)
    wanted = np.square(random_batch(setting)["target"]).mean()
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_both_pipelines_make_batches_of_the_same_files(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import data
    from PIL import Image

    monkeypatch.setattr(data, "BATCH", 4)
    data.write_files(tmp_path, 500, 375, 3)
    ours = data.our_batches(tmp_path, 0)
    mine = next(ours)["image"]
    ours.close()
    # Not through its DataLoader, which would fork this process.
    torchs = data.Files(tmp_path, Image.Resampling.BICUBIC)[0]
    assert mine.shape == (4, data.SIDE, data.SIDE, 3)
    assert torchs.shape == (3, data.SIDE, data.SIDE)
    assert mine.dtype == np.uint8
    assert str(torchs.dtype) == "torch.uint8"
    # Photographs both, and no two crops the same.
    assert mine.std() > 30
    assert torchs.numpy().std() > 30
    assert len({crop.tobytes() for crop in mine}) == 4


def test_a_prepared_data_set_of_random_arrays(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import cached_data

    monkeypatch.setattr(cached_data, "BATCH", 8)
    cached_data.write(tmp_path / "set", 20, 4, 16)
    cached_data.write_files(tmp_path / "files", 1)
    assert cached_data.timed(cached_data.ours(tmp_path / "set", 1), 1) > 0
    with np.load(tmp_path / "files" / "0.npz") as found:
        assert found["latent"].shape == (32, 32, 4)
