"""The same real photographs through every kind of source, and trained on."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from i2i_prior.data.sources.registry import open_source
from i2i_prior.training.telemetry.metric_writer import read_metrics
from tests.conftest import TINY
from tests.data.fixtures_sources import (
    write_arrayrecord,
    write_folder,
    write_tar,
)

FLICKR = Path(__file__).parents[3] / "shared/data/flickr8k/captions1000.tar"
COUNT = 24
KINDS = ("folder", "tar", "arrayrecord", "parquet", "tfds", "prepared")

pytestmark = pytest.mark.skipif(
    not FLICKR.exists(), reason="the shared data is not on this machine"
)


@pytest.fixture(scope="module")
def specs(command, tmp_path_factory):
    """The SPEC of each kind."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("sources")
    photos, members = [], {}
    with tarfile.open(FLICKR) as archive:
        while len(photos) < COUNT:
            member = archive.next()
            data = archive.extractfile(member).read()
            members[member.name] = data
            if member.name.endswith(".jpg"):
                photos.append(data)
    write_folder(folder / "folder", members)
    write_tar(folder / "some.tar", members)
    write_arrayrecord(folder / "some.array_record", photos)
    table = pyarrow.table({"image": [{"bytes": data} for data in photos]})
    parquet.write_table(table, folder / "some.parquet", row_group_size=8)
    write_tfds(folder / "tfds", photos)
    ended = command(
        *("prepare", "--source", f"tar:{folder}/some.tar"),
        *("--out", folder / "prepared", "--size", 32, "--workers", 1),
    )
    assert ended.code == 0, ended.err
    return {
        "folder": f"folder:{folder}/folder",
        "tar": f"tar:{folder}/some.tar",
        "arrayrecord": f"arrayrecord:{folder}/some.array_record",
        "parquet": f"parquet:{folder}/some.parquet",
        "tfds": f"tfds:photos/train#data_dir={folder}/tfds",
        "prepared": f"arrayrecord:{folder}/prepared",
    }


def write_tfds(data_dir: Path, photos: list[bytes]) -> None:
    """photos/1.0.0 with a split train, in TFDS' own form."""
    from tensorflow_datasets import features
    from tensorflow_datasets.core import example_serializer

    folder = data_dir / "photos" / "1.0.0"
    folder.mkdir(parents=True)
    kinds = features.FeaturesDict({"image": features.Image()})
    kinds.save_config(folder)
    pack = example_serializer.ExampleSerializer(kinds.get_serialized_info())
    write_arrayrecord(
        folder / "photos-train.array_record-00000-of-00001",
        [pack.serialize_example({"image": data}) for data in photos],
    )
    split = {
        "name": "train",
        "shardLengths": [str(len(photos))],
        "numBytes": "1000",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "photos", "version": "1.0.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(
        json.dumps({**info, "splits": [split]})
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains(kind, specs, command, tmp_path):
    assert len(open_source(specs[kind])) >= COUNT - 1
    train(command, specs[kind], tmp_path)


def test_a_mixture_and_a_selection_train(specs, command, tmp_path):
    ended = command(
        *("curate", "--source", specs["tar"], "--min-side", 16),
        *("--out", tmp_path / "kept.jsonl"),
    )
    assert ended.code == 0, ended.err
    selection = f"select:{tmp_path}/kept.jsonl"
    train(command, f"mix:0.7*{selection} + 0.3*{specs['folder']}", tmp_path)


def train(command, spec: str, tmp_path: Path) -> None:
    ended = command(
        *("train", "--config", TINY, "--workdir", tmp_path / "run"),
        *(f"--config.data.source={spec}", "--config.train.steps=1"),
    )
    assert ended.code == 0, ended.err
    (line,) = read_metrics(tmp_path / "run")
    assert 0 < line["loss"] < 10
    shutil.rmtree(tmp_path / "run")
