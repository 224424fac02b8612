"""Every kind of source over real data: captions, pairs, views, classes."""

from __future__ import annotations

import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from i2i_prior.data.decode_image import decode
from i2i_prior.data.sources.registry import open_source
from tests.data.fixtures_sources import write_arrayrecord, write_folder

DATA = Path(__file__).parents[3] / "shared/data"

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="the shared data is not on this machine"
)


def first_members(path: Path, count: int) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = [archive.next() for _ in range(count)]
        return {m.name: archive.extractfile(m).read() for m in members}


def test_captions():
    source = open_source(f"tar:{DATA}/flickr8k/captions1000.tar")
    assert len(source) == 1000
    for index in (0, 499, 999):
        captions = source[index].fields["captions"]
        assert len(captions) == 5
        assert all(len(text) > 10 for text in captions)


def test_pairs():
    spec = f"tar:{DATA}/facades/*.tar"
    photos = open_source(f"{spec}#image=photo.jpg")
    labels = open_source(f"{spec}#image=labels.jpg")
    assert len(photos) == len(labels) == 606
    record, other = photos[37], labels[37]
    assert record.fields["images"] == {"labels.jpg": other.data}
    assert other.fields["images"] == {"photo.jpg": record.data}
    assert decode(record).shape == decode(other).shape == (256, 256, 3)


def test_views():
    source = open_source(f"tar:{DATA}/eth80/views.tar")
    assert len(source) == 80 * 41
    poses = [source[i].fields["json"] for i in range(0, len(source), 41)]
    assert len({pose["object"] for pose in poses}) > 1
    assert all(0 <= pose["polar_deg"] <= 180 for pose in poses)


def test_classes():
    source = open_source(f"tar:{DATA}/tiny_imagenet64/val.tar")
    assert len(source) == 10_000
    labels = [record.fields["label"] for record in source]
    assert np.array_equal(np.bincount(labels), np.full(200, 50))


def test_threads_and_a_pickled_copy_read_the_same():
    source = open_source(f"tar:{DATA}/facades/test.tar")
    again = pickle.loads(pickle.dumps(source))
    order = np.random.default_rng(0).integers(len(source), size=300).tolist()
    with ThreadPoolExecutor(8) as pool:
        here = list(pool.map(source.__getitem__, order))
        there = list(pool.map(again.__getitem__, order))
    assert here == there
    assert {i: r.name for i, r in zip(order, here, strict=True)} == {
        i: source[i].name for i in order
    }


def test_the_same_images_through_each_kind(tmp_path):
    members = first_members(DATA / "flickr8k/captions1000.tar", 40)
    images = [data for name, data in members.items() if name.endswith("jpg")]
    write_folder(tmp_path / "f", members)
    write_arrayrecord(tmp_path / "a.array_record", images)
    tar = open_source(f"tar:{DATA}/flickr8k/captions1000.tar")
    folder = open_source(f"folder:{tmp_path}/f")
    wanted = [tar[i] for i in range(len(images))]
    assert list(folder) == wanted
    records = list(open_source(f"arrayrecord:{tmp_path}/a.array_record"))
    assert [record.data for record in records] == images

    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    captions = [list(record.fields["captions"]) for record in wanted]
    table = pa.table({"image": images, "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    rows = list(open_source(f"parquet:{tmp_path}/a.parquet"))
    assert [row.data for row in rows] == images
    assert [row.fields for row in rows] == [r.fields for r in wanted]
    mixed = open_source(
        f"mix:1*folder:{tmp_path}/f + 2*parquet:{tmp_path}/a.parquet"
    )
    assert [record.data for record in mixed] == images * 2


def test_a_tar_within_a_tar_is_no_image(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(DATA / "nerf_lego/views.tar", "inner.tar")
        name, data = next(
            iter(first_members(DATA / "nerf_lego/views.tar", 1).items())
        )
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    (record,) = open_source(f"tar:{tmp_path}/a.tar")
    assert record.data == data
