"""manifest.json is checked before it is believed."""

from __future__ import annotations

import json

import pytest

from i2i_prior.data.manifest import read_manifest
from i2i_prior.errors import UserError
from tests.data.fixtures_prepared import write_photos

DINO = {"family": "dino", "sha256": "0", "choice": "cls", "view_size": 16}


@pytest.fixture(scope="module")
def made(command, tmp_path_factory):
    """The files of a prepared folder."""
    folder = tmp_path_factory.mktemp("manifest")
    photos = write_photos(folder / "photos", 5, 16, 16)
    ended = command(
        "prepare",
        f"--source=folder:{photos}",
        f"--out={folder / 'out'}",
        "--examples-per-shard=3",
        "--workers=1",
    )
    assert ended.code == 0, ended.err
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


@pytest.fixture
def folder(made, tmp_path):
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def said(folder) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(folder)
    return str(caught.value)


def test_a_whole_folder(folder):
    manifest = read_manifest(folder)
    assert (manifest.count, manifest.records, manifest.kind) == (5, 5, "images")
    assert [shard.count for shard in manifest.shards] == [3, 2]
    assert [f.name for f in manifest.layout.fields] == [
        "size",
        "name",
        "image",
        "json",
    ]


def test_shards_that_are_cut_or_missing_are_named(folder):
    path = folder / "data-00001-of-00002.array_record"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert f"{path} has {len(data) // 2} bytes instead of" in said(folder)
    path.unlink()
    assert f"Shard {path} cannot be read (No such file" in said(folder)


def test_folders_that_are_none_or_unfinished(folder, tmp_path):
    (folder / "manifest.json").unlink()
    assert "holds no readable manifest.json (No such file" in said(folder)
    (folder / "plan.json").write_text("{}")
    assert "is not prepared to its end" in said(folder)
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    assert "(it is no text)" in said(folder)
    assert "holds no readable" in said(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"kind": "videos"}, "kind 'videos'"),
        ({"count": 6}, "its shards hold 5 examples, not 6"),
        ({"count": True}, "count is True"),
        ({"fields": [{"name": "x"}]}, "in the list of fields"),
        ({"fields": None}, "in the list of fields"),
        ({"shards": []}, "it names no shards"),
        ({"shards": [3]}, "a shard is no JSON object"),
        ({"shards": [{"file": "../x"}]}, "a shard is named '../x'"),
        ({"shards": [{"file": "x", "count": -1}]}, "x has no count and bytes"),
        ({"content_hash": "0" * 16}, "its content_hash is another"),
        ({"dropped": {"is empty": "many"}}, "dropped holds no counts"),
        ({"encoders": {"dino": 3}}, "encoders.dino is 3"),
        ({"encoders": {"dino": {}}}, "encoders.dino.family is None"),
        ({"encoders": {"dino": DINO}}, "its fields lack embedding/dino"),
        (
            {"encoders": {"dino": DINO | {"view_size": 16.0}}},
            "encoders.dino.view_size is 16.0",
        ),
        (
            {"encoders": {"dino": DINO | {"pixels": ["family"]}}},
            "encoders.dino.pixels is ['family']",
        ),
        ({"autoencoder": {"kind": "sd"}}, "autoencoder.shape is None"),
        (
            {"encoders": {"dino": DINO}, "preprocessing": {"size": "16"}},
            "preprocessing.size is '16'",
        ),
        (
            {"encoders": {"dino": DINO}, "preprocessing": {}},
            "preprocessing.size is None",
        ),
        ({"source": None}, "source is None"),
    ],
)
def test_damage_is_told(folder, changes, expected):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert f"{path} is damaged (" in said(folder)
    assert expected in said(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"a": 1'])
def test_text_that_is_no_manifest(folder, text):
    (folder / "manifest.json").write_text(text)
    assert "is damaged (" in said(folder)
