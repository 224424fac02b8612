"""Damaged safetensors, indexes, folders and links: one sentence each."""

from __future__ import annotations

import json
import os

import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import read_state_dict
from tests.interop.fixtures_weight_files import (
    NUMBERS,
    entry,
    legacy,
    safetensors,
    state,
    tensor,
    zipped,
)


def test_the_builders_build_what_can_be_read(tmp_path):
    """Good files are read, so that the bad ones fail for their one flaw."""
    for name, content in (
        ("zip.pth", zipped(state(tensor(shape=(3,), strides=(2,))))),
        ("deflated.pth", zipped(state(), data0=8, datapkl=8)),
        ("legacy.pth", legacy(state())),
        (
            "a.safetensors",
            safetensors(
                {"w": entry(shape=[2, 3], data_offsets=[0, 24])}, NUMBERS
            ),
        ),
    ):
        (tmp_path / name).write_bytes(content)
        found = read_state_dict(tmp_path / name)["w"]
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


# --- safetensors -----------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"1234567",
        safetensors({"w": entry()}, NUMBERS)[:-1],
        safetensors({"w": entry()}, NUMBERS)[:20],
        safetensors({"w": entry()}, NUMBERS + b"x"),
        safetensors({"w": entry()}, NUMBERS, length=2**40),
        safetensors({"w": entry()}, NUMBERS, length=2**64 - 1),
        safetensors(b"", b""),
        safetensors(b"{]", NUMBERS),
        safetensors(b"[]"),
        safetensors(b"3"),
        safetensors(b"\xff\xfe\xff"),
        safetensors(b"[" * 50_000),
        safetensors(b'{"w": 1, "w": 2}'),
        safetensors(b'{"w": ' + b"9" * 5000 + b"}"),
        *(
            safetensors({"w": wrong}, NUMBERS)
            for wrong in (
                *(None, 3, [], "F32", {}),
                *(entry(dtype=None), entry(shape=None), entry(dtype=["F32"])),
                *(entry(shape=6), entry(shape="6"), entry(shape=[5])),
                *(
                    entry(shape=[-6]),
                    entry(shape=[6.0]),
                    entry(shape=[True, 6]),
                ),
                *(entry(shape=[2**63, 2]), entry(shape=[2**62, 2**62, 0])),
                entry(shape=[0, 2**70], data_offsets=[0, 0]),
                entry(shape=[1] * 65 + [6]),
                *(entry(data_offsets=[0]), entry(data_offsets=[24, 0])),
                entry(data_offsets=[-24, 0]),
                entry(data_offsets=[0, 2**40], shape=[2**38]),
                entry(data_offsets=["0", "24"]),
                entry(data_offsets=[4, 24], shape=[5]),
            )
        ),
        safetensors({"v": entry(), "w": entry()}, NUMBERS),  # overlap
        safetensors(
            {
                "v": entry(shape=[2], data_offsets=[0, 8]),
                "w": entry(shape=[3], data_offsets=[12, 24]),  # a gap
            },
            NUMBERS,
        ),
        safetensors(
            {
                "v": entry(shape=[4], data_offsets=[0, 16]),
                "w": entry(shape=[4], data_offsets=[8, 24]),
            },
            NUMBERS,
        ),
    ],
    ids=range(41),
)
def test_bad_safetensors(content, refused):
    said = refused("bad.safetensors", content)
    assert "is not a readable safetensors file (" in said


def test_safetensors_of_no_use(refused):
    said = refused("a.safetensors", safetensors({}))
    assert "holds no tensors" in said
    wide = {"w": entry(dtype="F4", shape=[48])}
    said = refused("a.safetensors", safetensors(wide, NUMBERS))
    assert "holds w as F4, which this reader does not know" in said


# --- folders, links and names ------------------------------------------------


def test_what_is_no_file(refused, tmp_path):
    assert "no weight file" in refused("missing.pth")
    assert "no weight file" in refused("missing.safetensors")
    assert "no weight file" in refused("missing.txt")
    assert "no weight file" in refused("x.index.json")
    assert "no weight file by its name" in refused("notes.txt", b"text")
    assert "no weight file by its name" in refused("config.json", b"{}")
    (tmp_path / "config.json").unlink()
    for suffix in ("pth", "safetensors", "index.json"):
        (tmp_path / f"link.{suffix}").symlink_to("nowhere")
        assert "no weight file" in refused(f"link.{suffix}")
        (tmp_path / f"loop.{suffix}").symlink_to(f"loop.{suffix}")
        assert "no weight file" in refused(f"loop.{suffix}")
        os.mkfifo(tmp_path / f"pipe.{suffix}")
        assert "no weight file" in refused(f"pipe.{suffix}")
        assert "is empty" in refused(f"empty.{suffix}", b"")
    with pytest.raises(UserError, match="choose ema or raw"):
        read_state_dict(tmp_path / "missing.pth", "EMA")


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"w": "model-2.safetensors"}, "shard model-2.safetensors of"),
        ({"w": "../outside.safetensors"}, "not a file in its folder"),
        ({"w": "/etc/passwd"}, "not a file in its folder"),
        ({"w": "sub/model.safetensors"}, "not a file in its folder"),
        ({"w": "..\\outside.safetensors"}, "not a file in its folder"),
        ({"w": ".."}, "not a file in its folder"),
        ({"w": "."}, "not a file in its folder"),
        ({"w": ""}, "not a file in its folder"),
        ({"w": "x" * 5000}, "xxx... of"),
        ({"w": "a\0b.safetensors"}, "is missing"),
        ({"w": "notes.txt"}, "no weight file by its name"),
        ({"w": "model.safetensors.index.json"}, "no weight file by its name"),
        ({"x": "model-1.safetensors"}, "names x in model-1.safetensors"),
        ({"w": 1}, "no weight_map"),
        (["w"], "no weight_map"),
        (None, "no weight_map"),
        ({}, "names no tensors"),
    ],
)
def test_bad_indexes(weight_map, said, refused, tmp_path):
    content = safetensors({"w": entry()}, NUMBERS)
    (tmp_path / "outside.safetensors").write_bytes(content)
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name in ("model-1.safetensors", "sub/model.safetensors"):
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("text")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert said in refused("folder")
    assert said in refused("folder/model.safetensors.index.json")


def test_bad_folders(refused, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "holds none of model.safetensors, " in refused("folder")
    (folder / "model.safetensors").mkdir()
    assert "holds none of model.safetensors, " in refused("folder")
    for content in (b"not JSON", b"[" * 50_000, b"[]", b"\xff"):
        (folder / "model.safetensors.index.json").write_bytes(content)
        said = refused("folder")
        assert "is not JSON" in said or "no weight_map" in said
    file = folder / "model-1.safetensors"
    file.write_bytes(safetensors({"w": entry()}, NUMBERS))
    (folder / "config.json").write_bytes(b"{")
    assert "config.json is not JSON" in refused("folder/model-1.safetensors")
    (folder / "config.json").write_bytes(b"[1]")
    assert read_state_dict(file).config is None
