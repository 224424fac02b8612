"""Weight files: every layout that is published, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features import inception_weights
from i2i_prior.evaluation.features.inception_layout import published_shapes
from i2i_prior.evaluation.features.inception_weights import (
    InceptionWeights,
    load_inception,
    read_inception,
    store,
)
from i2i_prior.interop.files.hashing import hash_of
from tests.peers.torch_inception import random_state

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state():
    return random_state(3)


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """Published file, without counters."""
    path = tmp_path_factory.mktemp("published") / "pt_inception.pth"
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def read(file):
    return read_inception(file)


def hollow(change=lambda shapes: None, value=0.5):
    """State dict of the right shapes in a small file."""
    shapes = published_shapes()
    change(shapes)
    return {
        key: torch.full((1,) * len(shape), value).expand(shape)
        for key, shape in shapes.items()
    }


def saved(state, path):
    torch.save(state, path)
    return path


def test_the_layout_is_the_published_one():
    """Counts of the published file and of its parameters."""
    shapes = published_shapes()
    assert len(shapes) == 472
    assert sum(np.prod(s) for s in shapes.values()) == 23_885_392
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)


def test_what_is_read_is_what_was_written(read, state, file):
    assert set(read.state) == set(state)
    for key, array in state.items():
        np.testing.assert_array_equal(read.state[key], array)
    assert read.file_sha256 == hash_of(file)


def test_other_layouts_hold_the_same_weights(tmp_path):
    """Checks counters, a wrapper's prefix, and pytorch-fid's nesting."""
    plain = read_inception(saved(hollow(), tmp_path / "a.pth"))
    counted = hollow()
    for key in list(counted):
        if key.endswith("running_var"):
            name = key.replace("running_var", "num_batches_tracked")
            counted[name] = torch.tensor(0)
    assert len(counted) == 566
    wrapped = {f"module.{key}": value for key, value in counted.items()}
    for name, other in (("b.pth", counted), ("c.pth", wrapped)):
        found = read_inception(saved(other, tmp_path / name))
        assert found.sha256 == plain.sha256
        assert found.file_sha256 != plain.file_sha256


def test_pytorch_fids_outer_module_has_no_last_layer(tmp_path):
    places = {"Conv2d_2b_3x3.": "blocks.0.2.", "Conv2d_4a_3x3.": "blocks.1.1."}
    blocks = ["Conv2d_1a_3x3.", "Conv2d_2a_3x3."]
    places |= {name: f"blocks.0.{i}." for i, name in enumerate(blocks)}
    places["Conv2d_3b_1x1."] = "blocks.1.0."
    for i, block in enumerate("5b 5c 5d 6a 6b 6c 6d 6e".split()):  # noqa: SIM905
        places[f"Mixed_{block}."] = f"blocks.2.{i}."
    for i, block in enumerate(("7a", "7b", "7c")):
        places[f"Mixed_{block}."] = f"blocks.3.{i}."
    nested = {}
    for key, value in hollow().items():
        start = key.split(".")[0] + "."
        if start in places:
            nested[key.replace(start, places[start])] = value
    found = read_inception(saved(nested, tmp_path / "outer.pth"))
    assert len(found.state) == 470
    assert found.state["Mixed_6d.branch1x1.conv.weight"].shape[:2] == (192, 768)


def test_stored_and_read_again(read, tmp_path):
    path = tmp_path / "deep" / "weights.safetensors"
    store(read, path)
    again = read_inception(path)
    assert again.sha256 == read.sha256
    assert again.file_sha256 == read.file_sha256  # of the file it came from
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_inception(path)


def test_only_the_published_file_gives_fid(read, file, monkeypatch):
    own = f"FD-inception:{read.sha256[:8]}"
    assert not read.published
    assert read.label == own
    extractor = load_inception(file, "clean", ("pool3", "logits"))
    assert extractor.label == own
    assert extractor.identity["weights_sha256"] == read.sha256
    assert extractor.identity["published_file_sha256"] is None
    assert extractor.identity["preset"]["resize"] == "pil_bicubic"
    assert dict(extractor.taps) == {"pool3": 2048, "logits": 1008}
    monkeypatch.setattr(inception_weights, "PUBLISHED", read.file_sha256[:8])
    assert read.label == "FID"


def test_the_published_hash():
    """Checks the hash against the name of the published file."""
    real = InceptionWeights({}, "0" * 64, "6726825d" + "0" * 56)
    assert real.published
    assert "6726825d" in inception_weights.URL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("Mixed_5b.branch_pool.bn.bias"), "branch_pool.bn.bi"),
        (lambda s: s.pop("fc.bias"), "fc.bias"),
        (lambda s: s.update({"AuxLogits.fc.bias": (1000,)}), "AuxLogits"),
        (
            lambda s: s.update({"fc.weight": (1000, 2048), "fc.bias": (1000,)}),
            r"\(1000, 2048\), not \(1008, 2048\)",
        ),
        (
            lambda s: s.update(
                {"Mixed_6b.branch7x7_2.conv.weight": (128, 128, 7, 1)}
            ),
            "branch7x7_2",
        ),
    ],
)
def test_another_networks_weights(change, words, tmp_path):
    path = saved(hollow(change), tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"no Inception weights.*{words}"):
        read_inception(path)


def test_numbers_that_are_none(tmp_path):
    path = saved(hollow(value=float("nan")), tmp_path / "nan.pth")
    with pytest.raises(UserError, match="NaN"):
        read_inception(path)


def test_without_weights_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="i2i-prior weights inception --from"):
        load_inception()
    with pytest.raises(UserError, match="no preset 'fid'"):
        load_inception(preset="fid")
