"""ArrayRecord files: plain ones, prepared folders, damage."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from i2i_prior.data.examples import Field, Layout
from i2i_prior.data.manifest import content_hash
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, value_of, write_arrayrecord

LAYOUT = Layout(
    [
        Field("size", "array", "int32", (2,)),
        Field("name", "text"),
        Field("image", "bytes"),
        Field("json", "json"),
        Field("images", "json"),
        Field("images/0", "bytes"),
    ]
)


def example(value: int) -> dict:
    return {
        "size": np.array([4, 4], np.int32),
        "name": f"{value}.png",
        "image": png(value),
        "json": {"captions": ["a", "b"], "label": value, "json": {"x": 1}},
        "images": ["labels.png"],
        "images/0": png(100 + value),
    }


def write_prepared(folder: Path, shards: list[list[bytes]], kind="images"):
    folder.mkdir()
    rows = []
    for number, records in enumerate(shards):
        name = f"data-{number:05}-of-{len(shards):05}.array_record"
        write_arrayrecord(folder / name, records)
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        counts = {"count": len(records), "bytes": len(data)}
        rows.append({"file": name, "sha256": digest, **counts})
    manifest = {
        "format": 1,
        "kind": kind,
        "fields": LAYOUT.to_json(),
        "count": sum(map(len, shards)),
        "shards": rows,
        "source": "folder:/x",
        "source_fingerprint": "0" * 16,
        "records": sum(map(len, shards)),
        "examples_per_shard": 3,
        "dropped": {},
        "preprocessing": {},
        "autoencoder": None,
        "encoders": {},
        "version": "0",
        "content_hash": content_hash(row["sha256"] for row in rows),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def prepared(tmp_path) -> Path:
    packed = [LAYOUT.pack(example(value)) for value in range(5)]
    write_prepared(tmp_path / "p", [packed[:3], [], packed[3:]])
    return tmp_path / "p"


def test_plain_files_hold_images(tmp_path):
    shards = [[png(0), png(1)], [], [png(2)]]
    for number, records in enumerate(shards):
        write_arrayrecord(tmp_path / f"x.array_record-{number}", records)
    (tmp_path / "readme.txt").write_text("passed over")
    source = open_source(f"arrayrecord:{tmp_path}")
    assert [value_of(record) for record in source] == [0, 1, 2]
    assert [record.name for record in source] == [
        "x.array_record-0/0",
        "x.array_record-0/1",
        "x.array_record-2/0",
    ]
    one = open_source(f"arrayrecord:{tmp_path}/*-2")
    assert value_of(one[-1]) == 2
    assert one.fingerprint() != source.fingerprint()
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint() == source.fingerprint()
    assert again[1] == source[1]


def test_a_prepared_folder_brings_its_fields(prepared):
    source = open_source(f"arrayrecord:{prepared}")
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert source.fingerprint() == manifest["content_hash"]
    assert len(source) == 5
    record = source[3]
    assert (record.name, value_of(record)) == ("3.png", 3)
    assert record.fields == {
        "captions": ("a", "b"),
        "label": 3,
        "json": {"x": 1},
        "images": {"labels.png": png(103)},
    }


@pytest.mark.parametrize("count", [1, 10, 200])
def test_many_are_read_at_once_in_the_order_asked_for(prepared, count):
    source = open_source(f"arrayrecord:{prepared}")
    order = np.random.default_rng(0).integers(5, size=count).tolist()
    found = [LAYOUT.unpack(data)["name"] for data in source.reader.read(order)]
    assert found == [f"{index}.png" for index in order]


def test_threads_share_a_reader(prepared):
    source = open_source(f"arrayrecord:{prepared}")
    order = np.random.default_rng(0).integers(5, size=300).tolist()
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: value_of(source[i]), order))
    assert values == order


def test_latents_and_unfinished_folders_are_refused(tmp_path, prepared):
    write_prepared(tmp_path / "latents", [[b"x"]], kind="latents")
    with pytest.raises(UserError, match=r"train from it with data\.source"):
        open_source(f"arrayrecord:{tmp_path}/latents")
    (prepared / "manifest.json").rename(prepared / "plan.json")
    with pytest.raises(UserError, match="prepare again"):
        open_source(f"arrayrecord:{prepared}")


def test_a_truncated_shard_is_named(tmp_path, prepared):
    write_arrayrecord(tmp_path / "a.array_record", [png(1)] * 900)
    write_arrayrecord(tmp_path / "b.array_record", [png(1)])
    write_arrayrecord(tmp_path / "whole.array_record", [])
    shard = prepared / "data-00002-of-00003.array_record"
    os.truncate(tmp_path / "a.array_record", 100_000)
    os.truncate(shard, 70_000)
    for place, name in [(tmp_path, "a.array_record"), (prepared, shard.name)]:
        with pytest.raises(UserError, match=rf"^[^\n]*{name}[^\n]*\.$"):
            open_source(f"arrayrecord:{place}")
    with pytest.raises(UserError, match="holds no record"):
        open_source(f"arrayrecord:{tmp_path}/whole.array_record")
    with pytest.raises(UserError, match="from this machine only"):
        open_source("arrayrecord:gs://bucket/x")


def test_damaged_examples_cost_themselves_only(tmp_path):
    whole = [LAYOUT.pack(example(value)) for value in range(2)]
    other = Layout([Field("name", "text")]).pack({"name": "?"})
    write_prepared(tmp_path / "p", [[whole[0], whole[1][:-9], other, b""]])
    source = open_source(f"arrayrecord:{tmp_path}/p")
    assert value_of(source[0]) == 0
    for index in (1, 2, 3):
        with pytest.raises(OSError, match="a damaged example"):
            source[index]
