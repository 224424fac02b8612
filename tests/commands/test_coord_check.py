"""The coordinate check, and muP under it."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from i2i_prior.models.activation_taps import PLACES, ActivationTaps
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.scaling_laws.coord_check import slopes, verdict
from tests.conftest import TINY


def test_a_watched_network_says_the_same_and_what_it_saw():
    config = DiTConfig(depth=3, width=16, heads=2, input_size=4)
    dit = DiT(config, rngs=nnx.Rngs(0))
    state = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape) / 4,
        nnx.state(dit, nnx.Param),
    )
    nnx.update(dit, state)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 4))
    tokens = jax.random.normal(jax.random.key(2), (2, 3, 16))
    timestep = jnp.array([10.0, 900.0])

    @jax.jit
    def both(x, timestep, tokens):
        taps = ActivationTaps(dit)
        out = taps(x, timestep, tokens=tokens)
        return dit(x, timestep, tokens), out, taps.seen

    plain, out, seen = jax.device_get(both(x, timestep, tokens))
    np.testing.assert_allclose(out, plain, 1e-4, 1e-4)
    assert set(seen) == set(PLACES)
    names = ("first", "middle", "last")
    first, middle, last = (seen[f"{name} block"] for name in names)
    assert first.shape == seen["MLP"].shape == (2, 4, 16)
    # Two layers behind the first, told apart.
    assert np.abs(first - middle).max() > 0.01
    assert np.abs(middle - last).max() > 0.01
    np.testing.assert_array_equal(seen["output"], out)


@pytest.fixture(scope="module")
def checked(command, tmp_path_factory):
    """A check of the tiny model at a 4x range of widths."""
    out = tmp_path_factory.mktemp("coordinates") / "new"
    ended = command(
        "coordinates",
        *("--config", TINY, "--widths", "128,32", "--steps", 4),
        *("--seeds", 1, "--out", out),
        "--config.optim.learning_rate=2e-3",
        "--config.optim.weight_decay=0",
        "--config.model.depth=1",
        "--config.encoder.kind=frozen",
        "--config.encoder.weights=random",
    )
    assert ended.code == 0, ended.err
    return ended, out


def test_changes_are_flat_over_the_width_in_mup_and_not_without(checked):
    ended, out = checked
    result = json.loads((out / "coordinates.json").read_text())
    assert result["flat"] == {"standard": False, "mup": True}
    assert result["base_width"] == 32
    assert max(result["slopes"]["standard"].values()) > 0.4
    for slope in result["slopes"]["mup"].values():
        assert abs(slope) < 0.25
    assert "muP flat" in ended.out
    assert "standard NOT flat" in ended.out


def test_each_model_and_step_has_a_row_and_at_the_base_both_are_one(checked):
    _, out = checked
    result = json.loads((out / "coordinates.json").read_text())
    rows = {
        (r.pop("parametrisation"), r["width"], r["step"]): r
        for r in result["rows"]
    }
    assert len(rows) == len(result["rows"]) == 2 * 2 * 4
    for step in range(1, 5):
        assert rows["mup", 32, step] == rows["standard", 32, step]
    assert rows["mup", 128, 4] != rows["standard", 128, 4]
    # Behind an output kernel of zeros nothing has a gradient at first.
    assert rows["mup", 128, 1]["attention"] == 0 < rows["mup", 128, 1]["output"]
    assert rows["mup", 128, 4]["loss"] < rows["mup", 128, 1]["loss"]


def test_picture_is_one(checked):
    _, out = checked
    with Image.open(out / "coordinates.png") as picture:
        assert picture.size[0] > picture.size[1] > 300
    assert sorted(p.name for p in out.iterdir()) == [
        "coordinates.json",
        "coordinates.png",
    ]


def test_slopes_are_powers_and_a_diverged_model_is_not_flat():
    rows = [
        {
            "parametrisation": name,
            "width": width,
            "step": step,
            "attention": step * width**0.5,
            "output": float("nan") if (name, width) == ("mup", 64) else 3.0,
        }
        for name in ("standard", "mup")
        for width in (32, 64, 128)
        for step in (1, 2)
    ]
    found = {name: slopes(rows, name) for name in ("standard", "mup")}
    assert found["standard"] == pytest.approx({"attention": 0.5, "output": 0})
    assert np.isnan(found["mup"]["output"])
    line = verdict(
        {"slopes": found, "flat": {"standard": False, "mup": False}, "steps": 2}
    )
    assert "muP NOT flat (steepest output: +nan)" in line


def test_a_place_that_cannot_be_written_is_said_before_training(
    command, tmp_path, monkeypatch
):
    monkeypatch.setattr("i2i_prior.scaling_laws.coord_check.check", None)
    (tmp_path / "file").touch()
    arguments = "--config", TINY, "--widths", "32,64"
    ended = command("coordinates", *arguments, "--out", tmp_path / "file/out")
    assert ended.code == 1
    assert "is a file" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--widths", "32,40"], "multiples of the head width 16"),
        (["--widths", "32"], "two or more"),
        (["--widths", "32,64", "--steps", "0"], "--steps and --seeds"),
        (
            ["--widths", "32,64", "--config.model.mup_base_width=24"],
            "no multiple of the head width 16",
        ),
    ],
)
def test_mistakes_are_one_sentence(command, tmp_path, arguments, words):
    ended = command(
        "coordinates", "--config", TINY, *arguments, "--out", tmp_path / "out"
    )
    assert ended.code == 1
    assert words in ended.err
    assert not (tmp_path / "out").exists()
