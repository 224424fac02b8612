"""A run directory of an earlier build: every command goes on with it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parents[2] / "shared/data/runs/old_modern.tar"

pytestmark = pytest.mark.skipif(
    not ARCHIVE.exists(), reason=f"no earlier run at {ARCHIVE}"
)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 12 steps, before fields were renamed and rooms were made."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "old_modern"


def test_its_weights_are_exported_to_the_bit(run, command):
    out = run.parent / "prior.safetensors"
    ended = command("export", "--workdir", run, "--out", out)
    assert ended.code == 0, ended.err
    assert out.read_bytes() == (run / "prior.safetensors").read_bytes()


def test_it_is_sampled_evaluated_and_reported(run, command):
    ended = command("evaluate", "--workdir", run, "--num-samples", "16")
    assert ended.code == 0, ended.err
    # As the build that trained it measured, up to this build's compiler flags.
    for said in ("step 12, top1 0.0625,", "fidelity_cosine 0.25 ", " 36.2"):
        assert said in ended.out
    image = "builtin:photos/heldout#coffee.png"
    ended = command(
        *("sample", "--workdir", run, "--images", image),
        *("--num", "2", "--out", run.parent / "samples"),
    )
    assert ended.code == 0, ended.err
    assert command("report", "--workdir", run).code == 0


def test_it_resumes(run, command):
    before = json.loads((run / "goodput.json").read_text())
    ended = command(
        *("train", "--config", run / "config.json", "--workdir", run),
        "--config.train.steps=14",
    )
    assert ended.code == 0, ended.err
    assert "resumed, step 12" in ended.err
    assert (run / "checkpoints/14").is_dir()
    steps = [
        json.loads(line)["step"]
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps[-1] == 14
    after = json.loads((run / "goodput.json").read_text())
    assert json.dumps(after) != json.dumps(before)
