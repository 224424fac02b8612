"""Dicts and prefixes that training checkpoints wrap a state dict in."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from i2i_prior.interop.files import state_dict_keys  # noqa: E402
from i2i_prior.interop.files.state_dicts import read_state_dict  # noqa: E402
from tests.interop.state_dicts_compared import B, W, same  # noqa: E402


def test_training_checkpoints(tmp_path):
    """Checkpoints {'model', 'ema', 'opt', 'args'} of DiT and SiT."""
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    raw = {f"module.{k}": v for k, v in module.state_dict().items()}
    ema = {k: v + 1 for k, v in module.state_dict().items()}
    arguments = argparse.Namespace(
        data=Path("/data"), lr=np.float64(1e-4), size=torch.Size((2, 3)),
        kind=torch.float16, device=torch.device("cpu"), seeds={1, 2},
        history=np.arange(3), made={("a", 1): 2}, raw=b"bytes",
    )  # fmt: skip
    file = tmp_path / "0400000.pt"
    torch.save(
        {
            "model": raw,
            "ema": ema,
            "opt": optimizer.state_dict(),
            "args": arguments,
            "step": torch.tensor(3),
        },
        file,
    )
    state = read_state_dict(file)
    same(state, ema)
    assert state.wrapper == "ema"
    state = read_state_dict(file, weights="raw")
    same(state, module.state_dict())
    assert state.wrapper == "model"


@pytest.mark.parametrize(
    ("content", "ema", "raw", "keys"),
    [
        ({"state_dict": {"w": B}}, "state_dict", "state_dict", "w"),
        (
            {"state_dict": {"w": W}, "state_dict_ema": {"w": B}},
            "state_dict_ema",
            "state_dict",
            "w",
        ),
        (
            {"state_dict": {"w": B}, "state_dict_ema": None},
            "state_dict",
            "state_dict",
            "w",
        ),
        (
            {"ema": {"module": {"w": B}, "decay": 0.9}, "model": {"w": W}},
            "ema.module",
            "model",
            "w",
        ),
        (
            {"model": {"state_dict": {"module._orig_mod.w": B}}, "epoch": 3},
            "model.state_dict",
            "model.state_dict",
            "w",
        ),
        (
            {"_orig_mod.module.module.w": B, "_orig_mod.module.module.b": B},
            "",
            "",
            "w b",
        ),
        ({"module.w": B, "b": B}, "", "", "module.w b"),
        ({"vit.w": B}, "", "", "vit.w"),
        ({"model.w": B}, "", "", "model.w"),
        ({"w": B, "name": "x", "sizes": [1]}, "", "", "w"),
        ({"ema": {"shadow": [B]}, "model": {"w": B}}, "model", "model", "w"),
        (
            {
                "student": {"module.backbone.w": W, "module.head.w": W},
                "teacher": {"backbone.w": B, "head.last.w": B},
                "epoch": 100,
            },
            "teacher",
            "student",
            "w head",
        ),
        (
            {"backbone.w": B, "dino_head.last.w": B, "ibot_head.last.w": B},
            "",
            "",
            "w dino_head ibot_head",
        ),
        ({"backbone.w": B, "neck.w": B}, "", "", "backbone.w neck.w"),
        ({"backbone.head.w": B, "head.w": B}, "", "", "backbone.head.w head.w"),
    ],
)
def test_containers_and_prefixes(content, ema, raw, keys, tmp_path):
    def tensors(node):
        if isinstance(node, dict):
            return {key: tensors(value) for key, value in node.items()}
        return torch.tensor(node) if isinstance(node, np.ndarray) else node

    file = tmp_path / "weights.pth"
    torch.save(tensors(content), file)
    state = read_state_dict(file, "ema")
    assert state.wrapper == ema
    assert [key.removesuffix(".last.w") for key in state] == keys.split()
    assert next(iter(state.values())).shape == (2,)  # B, never W
    state = read_state_dict(file, "raw")
    assert state.wrapper == raw
    if raw != ema:
        assert next(iter(state.values())).shape == (2, 2)


def test_prefixes_keep_every_key():
    keys = [f"module.backbone.{i}" for i in range(3)]
    assert state_dict_keys.strip_prefixes(keys) == dict(
        zip("012", keys, strict=True)
    )
    assert state_dict_keys.strip_prefixes([]) == {}
