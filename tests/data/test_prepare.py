"""`i2i-prior prepare` on images: what is made, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.crops import center_crop
from i2i_prior.data.decode_image import decode
from i2i_prior.data.manifest import content_hash
from i2i_prior.data.prepare.examples import Dropped, Maker, Pictures, probe
from i2i_prior.data.prepare.shards import write_shard
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import open_source
from tests.data.fixtures_prepared import (
    contents,
    dropped,
    examples,
    jpeg,
    plan_of,
    write_photos,
)

WHOLE = 21  # photographs that are not broken


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs of 40 x 56, three that are broken and a smaller one."""
    folder = write_photos(tmp_path_factory.mktemp("p"), WHOLE - 1, 40, 56)
    whole = (folder / "000.jpg").read_bytes()
    (folder / "003b.jpg").write_bytes(b"")
    (folder / "003c.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "018b.png").write_bytes(b"no image")
    (folder / "019b.jpg").write_bytes(jpeg(np.zeros((9, 70, 3), np.uint8)))
    return folder


@pytest.fixture
def prepare(command, photos, tmp_path):
    """prepare("--size", 16, ...) -> how it ended, of the photographs."""

    def run(*options, source=f"folder:{photos}", out=tmp_path / "out"):
        return command(
            "prepare",
            "--source",
            source,
            "--out",
            out,
            "--workers",
            1,
            "--examples-per-shard",
            5,
            "--max-broken",
            0.2,
            *options,
        )

    return run


def test_bytes_are_kept(prepare, photos, tmp_path):
    ended = prepare()
    assert ended.code == 0, ended.err
    assert "done: 21 examples, 3 left out (dropped.jsonl), in " in ended.err
    found = examples(tmp_path / "out")
    names = sorted(path.name for path in photos.iterdir())
    broken = ["003b.jpg", "003c.jpg", "018b.png"]
    assert [e["name"] for e in found] == [n for n in names if n not in broken]
    for example in found:
        assert example["image"] == (photos / example["name"]).read_bytes()
        expected = [9, 70] if example["name"] == "019b.jpg" else [40, 56]
        assert example["size"].tolist() == expected
        assert example["json"] == {}
    rows = dropped(tmp_path / "out")
    assert [row["name"] for row in rows] == broken
    assert rows[0]["reason"] == "is empty"
    assert rows[1]["reason"].startswith("cannot be decoded (")


def test_the_manifest(prepare, photos, tmp_path):
    assert prepare().code == 0
    folder = tmp_path / "out"
    said = json.loads((folder / "manifest.json").read_text())
    assert said["kind"] == "images"
    assert said["records"] == 24
    assert said["source"] == f"folder:{photos}"
    source = open_source(said["source"])
    assert said["source_fingerprint"] == source.fingerprint()
    assert said["preprocessing"] == {"size": 0, "min_side": 0, "encode": "keep"}
    assert said["dropped"] == {
        "cannot be decoded": 1,
        "is empty": 1,
        "is no image of a known format": 1,
    }
    assert [shard["count"] for shard in said["shards"]] == [4, 4, 5, 5, 3]
    for shard in said["shards"]:
        data = (folder / shard["file"]).read_bytes()
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
    hashes = [shard["sha256"] for shard in said["shards"]]
    assert said["content_hash"] == content_hash(hashes)
    names = {shard["file"] for shard in said["shards"]}
    assert contents(folder).keys() == names | {"manifest.json", "dropped.jsonl"}


@pytest.mark.parametrize("encode", ["png", "jpeg"])
def test_squares(prepare, photos, tmp_path, encode):
    assert prepare("--size", 16, "--encode", encode).code == 0
    for example in examples(tmp_path / "out"):
        assert Image.open(io.BytesIO(example["image"])).format.lower() == encode
        record = Record("", (photos / example["name"]).read_bytes())
        expected = center_crop(decode(record), 16).astype(float)
        stored = decode(Record("", example["image"]))
        limit = 0 if encode == "png" else 3
        assert np.abs(stored - expected).mean() <= limit


def test_whole_images_of_a_size(prepare, tmp_path):
    ended = prepare("--size", 20, "--crop", "none", "--min-side", 10)
    assert ended.code == 0, ended.err
    found = examples(tmp_path / "out")
    for example in found:
        assert decode(Record("", example["image"])).shape == (20, 28, 3)
        assert example["size"].tolist() == [40, 56]
    small = dropped(tmp_path / "out")[-1]
    assert small["name"] == "019b.jpg"
    assert small["reason"] == "is smaller than the least side (9 x 70)"


def test_too_small_is_not_broken(prepare):
    ended = prepare("--min-side", 50, "--max-broken", 0.125)
    assert ended.code == 1
    assert "no record of folder:" in ended.err
    assert ended.err.endswith("choose another source, with another --out\n")


def test_pixels_without_a_file_become_png(prepare, tmp_path):
    assert prepare(source="builtin:photos/heldout").code == 0
    source = open_source("builtin:photos/heldout")
    for index, example in enumerate(examples(tmp_path / "out")):
        stored = decode(Record("", example["image"]))
        np.testing.assert_array_equal(stored, source[index].data)


def test_too_many_broken_and_then_on(prepare, tmp_path):
    ended = prepare("--max-broken", 0.1)
    assert ended.code == 1
    assert ended.err.count("error: ") == 1
    assert (
        "3 of 24 records are broken, more than the share of 0.1 allowed, the "
        "first being 003b.jpg (is empty), 003c.jpg (cannot be decoded ("
    ) in ended.err
    assert not (tmp_path / "out" / "manifest.json").exists()
    before = contents(tmp_path / "out")
    assert prepare("--max-broken", 0.2).code == 0
    after = contents(tmp_path / "out")
    assert all(
        after[name] == data
        for name, data in before.items()
        if name.endswith("array_record")
    )


def test_twice_is_nothing_to_do(prepare, tmp_path):
    assert prepare().code == 0
    before = contents(tmp_path / "out")
    # As a killed run leaves it that had only to tidy up.
    (tmp_path / "out" / "plan.json").write_text("{}")
    (tmp_path / "out" / ".data-00000.x.part").write_text("half")
    ended = prepare()
    assert (ended.code, ended.err.split(":")[0]) == (0, "nothing to do")
    assert contents(tmp_path / "out") == before
    ended = prepare("--encode", "png")
    assert ended.code == 1
    assert (
        "was made otherwise (preprocessing.encode 'keep' there, 'png' here)"
        in ended.err
    )
    assert contents(tmp_path / "out") == before


def test_a_damaged_shard_is_made_again(prepare, tmp_path):
    folder = tmp_path / "out"
    assert prepare("--max-broken", 0.1).code == 1
    shard = folder / "data-00002-of-00005.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    (folder / "data-00003-of-00005.json").write_text("{")
    assert prepare().code == 0
    assert shard.read_bytes() == whole
    assert len(examples(folder)) == WHOLE


def test_another_plan_is_refused_once_a_shard_is_there(prepare, tmp_path):
    assert prepare("--max-broken", 0.1).code == 1
    ended = prepare("--size", 16)
    assert ended.code == 1
    assert "was begun otherwise (" in ended.err
    assert "preprocessing.size 0 there, 16 here" in ended.err
    # One that is not told of yet would stay in the finished folder.
    for path in (tmp_path / "out").glob("data-*.json"):
        path.unlink()
    assert "was begun otherwise (" in prepare("--size", 16).err
    # Before that it may still be thought over.
    for path in (tmp_path / "out").glob("data-*"):
        path.unlink()
    assert prepare("--size", 16).code == 0


def test_a_folder_with_other_things(prepare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("Dear")
    ended = prepare()
    assert ended.code == 1
    assert "is not empty" in ended.err
    (tmp_path / "file").write_text("")
    assert "is a file" in prepare(out=tmp_path / "file").err
    assert "cannot write" in prepare(out=tmp_path / "file" / "out").err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--latents", "sd"], "--latent-weights belong together"),
        (["--flip"], "--flip mirrors what"),
        (["--size", 8, "--encode", "keep"], "does not go with --size"),
        (["--size", -1], "must be 0 or more"),
        (["--size", 8, "--quality", 0], "not from 1 to 100"),
        (["--quality", 90], "--quality is of a jpeg, and --encode is keep"),
        (["--size", 8, "--encode", "png", "--quality", 90], "choose jpeg"),
        (["--crop", "center"], "--crop has no effect without --size"),
        (["--dtype", "float16"], "--dtype is of what --latents and"),
        (["--batch-size", 2], "--batch-size is of what --latents and"),
        (
            ["--latents=sd", "--latent-weights=x", "--encode=png"],
            "--encode has no effect with --latents",
        ),
        (["--examples-per-shard", 0], "--examples-per-shard must be 1"),
        (["--max-broken", 2], "from 0 to 1"),
        (["--latents", "sd", "--latent-weights", "none"], "no weight file"),
        (["--latents", "xy", "--latent-weights", "n"], "xy is unknown"),
        (["--embeddings", "dino"], "should be NAME=FILE"),
        (["--embeddings", "a/b=c"], "should be NAME=FILE"),
        (["--embeddings", "dino=none"], "no weight file"),
    ],
)
def test_refusals(prepare, tmp_path, options, said):
    ended = prepare(*options)
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@dataclasses.dataclass
class Listed:
    """A source of records in memory."""

    records: list[Record]

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def fingerprint(self):
        return "0" * 16


def pair(name: str, further: dict[str, bytes], **fields) -> Record:
    pixels = np.full((6, 8, 3), 90, np.uint8)
    return Record(name, jpeg(pixels), {"images": further, **fields})


def test_what_came_along_is_kept():
    labels = jpeg(np.full((6, 8, 3), 200, np.uint8))
    source = Listed(
        [
            pair("a\udcff", {"labels.jpg": labels}, captions=("one", "two")),
            pair("b", {"labels.jpg": labels}, label=np.int64(3)),
            pair("c", {"labels.jpg": b"no"}, json={"azimuth": 1.5}),
        ]
        + [pair("d", {"labels.jpg": labels})] * 13
        + [pair("e", {}), pair("f", {"labels.jpg": labels})]
    )
    assert probe(Listed(source.records[:16])) == (
        ("labels.jpg",),
        "further images: labels.jpg",
    )
    make = Maker(source, Pictures(), ("labels.jpg",))
    first, second, third = (make(index) for index in range(3))
    assert first["name"] == "a\\udcff"
    assert first["json"] == {"captions": ["one", "two"]}
    assert (first["images"], first["images/0"]) == (["labels.jpg"], labels)
    assert json.loads(json.dumps(second["json"])) == {"label": 3}
    reason = "has a further image that is no image of a known format"
    assert third == Dropped("c", reason)
    assert make(16) == Dropped("e", "has no labels.jpg")
    square = Maker(source, Pictures(4, encode="png"), ("labels.jpg",))(0)
    stored = decode(Record("", square["images/0"]))
    assert stored.shape == (4, 4, 3)
    assert abs(stored.mean() - 200) < 2


def test_examples_that_differ_have_no_further_images():
    assert probe(Listed([pair("a", {"x.jpg": b""}), pair("b", {})])) == (
        (),
        "further images are left out, since not every example has them",
    )
    assert probe(Listed([pair("b", {})])) == ((), "")


def test_a_file_that_vanishes(tmp_path):
    folder = write_photos(tmp_path / "photos", 4, 20, 20)
    make = Maker(open_source(f"folder:{folder}"), Pictures())
    (folder / "002.jpg").unlink()
    reason = "cannot be read (No such file or directory)"
    assert make(2) == Dropped("002.jpg", reason)
    assert make(3)["name"] == "003.jpg"


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    class StopError(Exception):
        pass

    def tick(records, count=itertools.count()):  # noqa: B008 - counts calls
        if next(count) == 2:
            raise StopError

    source = Listed([pair(str(n), {}) for n in range(4)])
    make = Maker(source, Pictures())
    with pytest.raises(StopError):
        write_shard(tmp_path, plan_of(4), 0, map(make, range(4)), tick)
    assert not list(tmp_path.iterdir())
