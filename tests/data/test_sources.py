"""Sources: order, names, archives, pickling, fingerprints and complaints."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from i2i_prior.data.decode_image import decode
from i2i_prior.data.sources import tar
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, value_of, write_folder, write_tar

TINY = Path(__file__).parents[3] / "shared/data/tiny_imagenet64/val.tar"


IMAGES = {
    "a/1.PNG": png(1),
    "a/2.JpEg": png(2),
    "b.webp": png(3),
    "c/d/e.bmp": png(4),
    "z.jpg": png(5),
}


def test_folder_is_recursive_sorted_and_takes_any_case(tmp_path):
    extra = {"note.txt": b"no", "a/.hidden.png": b"no", ".cache/x.png": b"no"}
    write_folder(tmp_path, IMAGES | extra)
    source = open_source(f"folder:{tmp_path}")
    assert [source[i].name for i in range(len(source))] == sorted(IMAGES)
    assert [value_of(source[i]) for i in range(5)] == [1, 2, 3, 4, 5]


def test_folder_survives_a_loop_of_links_and_dangling_links(tmp_path):
    write_folder(tmp_path, {"a/1.png": png(1), "a/b/2.png": png(2)})
    (tmp_path / "a/b/loop").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "linked.png").symlink_to(tmp_path / "a/1.png")
    source = open_source(f"folder:{tmp_path}")
    names = [source[i].name for i in range(len(source))]
    assert names == ["a/1.png", "a/b/2.png", "linked.png"]


def test_folder_and_tar_of_the_same_files_agree(tmp_path):
    write_folder(tmp_path / "f", IMAGES)
    members = {f"./{name}": IMAGES[name] for name in sorted(IMAGES)}
    write_tar(tmp_path / "t.tar", members | {"a/1.cls": b"7"})
    folder = open_source(f"folder:{tmp_path}/f")
    tar = open_source(f"tar:{tmp_path}/t.tar")
    assert len(folder) == len(tar) == 5
    for i in range(5):
        assert folder[i] == tar[i]


def test_tar_reads_long_absolute_and_climbing_names(tmp_path):
    long = "x" * 200 + "/" + "ü" * 80 + ".png"
    members = {"/etc/a.png": png(1), "../../b.png": png(2), long: png(3)}
    write_tar(tmp_path / "t.tar", members)
    source = open_source(f"tar:{tmp_path}/t.tar")
    assert [source[i].name for i in range(3)] == list(members)
    assert [value_of(source[i]) for i in range(3)] == [1, 2, 3]
    assert sorted(os.listdir(tmp_path)) == ["t.tar"]


def test_tar_passes_over_what_is_no_plain_image_file(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("x.png")
            member.type, member.linkname = kind, "y.png"
            archive.addfile(member)
        for name in ("._x.png", "x.txt", "y.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png(9))
            archive.addfile(member, io.BytesIO(png(9)))
    source = open_source(f"tar:{tmp_path}/t.tar")
    assert len(source) == 1
    assert source[0].name == "y.png"
    assert value_of(source[0]) == 9


def test_shards_share_few_descriptors_between_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_OPEN_ARCHIVES", 2)
    for shard in range(7):
        members = {f"{i}.png": png(10 * shard + i) for i in range(3)}
        write_tar(tmp_path / f"{shard}.tar", members)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    source = open_source(f"tar:{tmp_path}/*.tar")
    assert source[4].name == "1.tar/1.png"
    with ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).integers(21, size=500).tolist()
        values = list(pool.map(lambda i: value_of(source[i]), order))
    assert values == [10 * (i // 3) + i % 3 for i in order]
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.parametrize("kind", ["folder", "tar", "builtin"])
def test_sources_survive_pickling_after_use(tmp_path, kind):
    write_folder(tmp_path / "f", IMAGES)
    write_tar(tmp_path / "t.tar", IMAGES)
    places = {"folder": "f", "tar": "t.tar"}
    rest = tmp_path / places[kind] if kind in places else "photos"
    source = open_source(f"{kind}:{rest}")
    first = source[1]
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source)
    assert again[1].name == first.name
    assert again.fingerprint() == source.fingerprint()
    assert np.array_equal(decode(again[1]), decode(first))


def test_fingerprint_follows_names_and_sizes_only(tmp_path):
    for name in "abcd":
        write_folder(tmp_path / name, {"1.png": b"123", "2.png": b"4567"})
    (tmp_path / "b/2.png").write_bytes(b"9999")
    (tmp_path / "c/2.png").write_bytes(b"99999")
    (tmp_path / "d/2.png").rename(tmp_path / "d/3.png")
    prints = [
        open_source(f"folder:{tmp_path}/{n}").fingerprint() for n in "abcd"
    ]
    assert prints[0] == prints[1]
    assert len({prints[0], prints[2], prints[3]}) == 3
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)


def test_every_complaint_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.tar").write_bytes(b"this is no archive" * 100)
    (tmp_path / "zero.tar").write_bytes(b"")
    write_tar(tmp_path / "text.tar", {"a.txt": b"hello"})
    write_tar(tmp_path / "gz.tar", IMAGES, "w:gz")
    write_tar(
        tmp_path / "cut.tar", {"a.png": b"1" * 9000, "b.png": b"2" * 9000}
    )
    data = (tmp_path / "cut.tar").read_bytes()
    # Within the first image; later cuts are only warned of.
    (tmp_path / "cut.tar").write_bytes(data[:5_000])
    for spec in (
        "nonsense",
        "ftp:/x",
        "folder:",
        f"folder:{tmp_path}/missing",
        f"folder:{tmp_path}/empty",
        f"folder:{tmp_path}/no.tar",
        f"tar:{tmp_path}/missing.tar",
        f"tar:{tmp_path}/missing*.tar",
        f"tar:{tmp_path}/empty",
        f"tar:{tmp_path}/no.tar",
        f"tar:{tmp_path}/zero.tar",
        f"tar:{tmp_path}/text.tar",
        f"tar:{tmp_path}/gz.tar",
        f"tar:{tmp_path}/cut.tar",
        "arrayrecord:/data/x",
        "tfds:oxford_flowers102/train",
        "builtin:cats",
    ):
        with pytest.raises(UserError) as caught:
            open_source(spec)
        text = str(caught.value)
        assert text.endswith("."), spec
        assert "\n" not in text, spec
        assert ":" in text, spec


def test_real_archive_is_indexed_in_seconds():
    if not TINY.exists():
        pytest.skip("the Tiny-ImageNet archive is not on this machine")
    start = time.monotonic()
    source = open_source(f"tar:{TINY}")
    assert time.monotonic() - start < 10
    assert len(source) == 10_000
    assert source[0].name == "00000.jpg"
    with tarfile.open(TINY) as archive:
        for _ in range(3):
            member = archive.next()
            while not member.name.endswith(".jpg"):
                member = archive.next()
        assert source[2].name == member.name
        assert source[2].data == archive.extractfile(member).read()
    assert decode(source[9_999]).shape == (64, 64, 3)


def test_sources_and_images_stay_light():
    code = (
        "import sys; import i2i_prior.data.sources.registry, "
        "i2i_prior.data.decode_image, "
        "i2i_prior.data.builtin; import i2i_prior.data.sources.tar, "
        "i2i_prior.data.sources.folder, i2i_prior.data.sources.arrayrecord, "
        "i2i_prior.data.sources.parquet, i2i_prior.data.sources.tfds; "
        "heavy = {'jax', 'grain', 'torch', 'tensorflow', 'skimage', "
        "'sklearn', 'fsspec', 'pyarrow', 'array_record', "
        "'tensorflow_datasets'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
