"""`i2i-prior flops`: its table and its JSON."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from i2i_prior.config import load_config
from i2i_prior.flops.cost import run_cost
from tests.conftest import ROOT

LUMOS = ROOT / "configs/lumos_xl2.py"


@pytest.fixture(scope="module")
def lumos(command, tmp_path_factory):
    """Output and JSON of a published size."""
    out = tmp_path_factory.mktemp("flops") / "cost.json"
    ended = command(
        "flops",
        *("--config", LUMOS, "--accelerator", "h100x8", "--mfu", 0.5),
        *("--json", out, "--config.train.steps=1000"),
    )
    assert ended.code == 0, ended.err
    return ended.out, json.loads(out.read_text())


def columns(text: str, name: str) -> list[str]:
    """Cells of a row after its name."""
    line = re.search(rf"^ *{re.escape(name)}  +(.*)$", text, re.MULTILINE)
    assert line, name
    return line[1].split()


def test_what_is_printed(lumos):
    text, _ = lumos
    assert columns(text, "dit") == ["819,792,032", "237.386", "43.5%"]
    # Lumos' q and k, which one condition token never reaches.
    assert columns(text, "of it never trained")[0] == "74,382,336"
    assert columns(text, "encoder (frozen)")[0] == "85,798,656"
    assert columns(text, "N, trained parameters") == ["747,623,840"]
    assert "1,000 steps, 2,048,000 examples" in text
    assert columns(text, "6 N D")[1:] == ["(1.612", "x", "C)"]
    assert max(map(len, text.splitlines())) <= 80


def test_shares_add_up(lumos):
    text, _ = lumos
    first = text.split("\n\n")[1]
    networks = ("dit", "conditioner", "encoder (frozen)")
    shares = [
        float(columns(first, name)[-1].rstrip("%"))
        for name in (*networks, "autoencoder (frozen)")
    ]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    pieces = re.findall(r"^  (?!of it).* ([\d.]+)%$", first, re.MULTILINE)
    assert sum(map(float, pieces)) == pytest.approx(100, abs=1)


def test_what_is_written(lumos):
    _, written = lumos
    cost = run_cost(load_config(str(LUMOS)))
    assert written["cost"]["training_flops"] == cost.training_flops
    run = written["run"]
    assert run["flops"] == 2_048_000 * cost.training_flops
    assert run["tokens"] == 2_048_000 * 256
    # 8 H100 of 989e12 FLOP/s, half of it used; recomputing is not useful.
    model = 2_048_000 * cost.model_flops
    assert run["hours"] == pytest.approx(model / (8 * 989e12 * 0.5) / 3600)
    assert run["chip_hours"] == pytest.approx(8 * run["hours"])
    pieces = written["networks"]["dit"]["parts"].values()
    assert sum(part["parameters"] for part in pieces) == 819_792_032


def test_a_small_model_in_its_own_unit(command, tiny_spec):
    text = command("flops", "--config", tiny_spec).out
    assert "MFLOPs" in text
    assert "hours" not in text
    cost = run_cost(load_config(tiny_spec))
    assert columns(text, "N, trained parameters") == [f"{cost.parameters:,}"]


def test_latents_need_no_autoencoder(command, tmp_path):
    """Prepared latents: no autoencoder is counted."""
    config, out = ROOT / "configs/tiny_latents.py", tmp_path / "cost.json"
    assert command("flops", "--config", config, "--json", out).code == 0
    written = json.loads(out.read_text())["cost"]
    assert written == dataclasses.asdict(run_cost(load_config(str(config))))
    assert written["autoencoder_flops"] == written["frozen_parameters"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mfu", "40"), "--mfu is 40.0; it is a share"),
        (("--accelerator", "h100"), "topology 'h100' is unknown"),
        (("--config.model.width=50",), "model.width 50"),
        (("--config.encoder.family=x",), "encoder.family is 'x'"),
        (("--config.encoder.heads=7",), "7 heads the width"),
        (("--json", "."), ". is a folder; name a file to write"),
    ],
)
def test_mistakes(command, tiny_spec, arguments, said):
    ended = command("flops", "--config", tiny_spec, *arguments)
    assert ended.code == 1
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out
