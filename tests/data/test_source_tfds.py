"""TFDS data sets, written in their own form without TensorFlow."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, value_of, write_arrayrecord


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Holds tiny/1.0.0 with a split train of 2 + 3 examples."""
    from tensorflow_datasets import features
    from tensorflow_datasets.core import example_serializer

    root = tmp_path_factory.mktemp("tfds")
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    kinds = features.FeaturesDict(
        {
            "image": features.Image(shape=(None, None, 3)),
            "mask": features.Image(shape=(None, None, 3)),
            "label": features.ClassLabel(num_classes=5),
            "captions": features.Sequence(features.Text()),
            "objects": features.Sequence({"crop": features.Image()}),
            "more": {"depth": features.Image(), "score": np.float32},
            "frames": features.Sequence(features.Image()),
        }
    )
    kinds.save_config(folder)
    serializer = example_serializer.ExampleSerializer(
        kinds.get_serialized_info()
    )
    packed = [
        serializer.serialize_example(
            {
                "image": png(value),
                "mask": png(100 + value),
                "label": value,
                "captions": [b"a cat", "ein Käfer".encode()],
                "objects": {"crop": [png(7), png(8)]},
                "more": {"depth": png(9), "score": np.float32(0.5)},
                "frames": [png(7), png(8)],
            }
        )
        for value in range(5)
    ]
    names = [f"tiny-train.array_record-0000{i}-of-00002" for i in range(2)]
    write_arrayrecord(folder / names[0], packed[:2])
    write_arrayrecord(folder / names[1], packed[2:])
    split = {
        "name": "train",
        "shardLengths": ["2", "3"],
        "numBytes": "1000",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(
        json.dumps({**info, "splits": [split]})
    )
    return root


def test_a_split_is_read_with_its_fields(data_dir):
    source = open_source(f"tfds:tiny/train#data_dir={data_dir}")
    assert [value_of(record) for record in source] == [0, 1, 2, 3, 4]
    record = source[3]
    assert record.data == png(3)
    assert record.fields == {"label": 3, "captions": ("a cat", "ein Käfer")}
    again = pickle.loads(pickle.dumps(source))
    assert again[-1] == source[4]
    assert again.fingerprint() == source.fingerprint()


def test_parts_versions_and_other_images(data_dir):
    part = open_source(f"tfds:tiny:1.0.0/train[3:]#data_dir={data_dir}")
    assert [value_of(record) for record in part] == [3, 4]
    whole = open_source(f"tfds:tiny/train#data_dir={data_dir},image=mask")
    assert value_of(whole[2]) == 102
    assert whole.fingerprint() != part.fingerprint()


def test_the_fingerprint_tells_images_and_versions_apart(data_dir, tmp_path):
    prints = []
    shutil.copytree(data_dir / "tiny", tmp_path / "tiny")
    shutil.copytree(data_dir / "tiny/1.0.0", tmp_path / "tiny/1.0.1")
    about = tmp_path / "tiny/1.0.1/dataset_info.json"
    about.write_text(about.read_text().replace("1.0.0", "1.0.1"))
    for version in ("1.0.0", "1.0.1"):
        for image in ("image", "mask"):
            options = f"data_dir={tmp_path},image={image}"
            source = open_source(f"tfds:tiny:{version}/train#{options}")
            prints.append(source.fingerprint())
    assert len(set(prints)) == 4
    there = open_source(f"tfds:tiny:1.0.0/train#data_dir={data_dir}")
    assert there.fingerprint() == prints[0]


def test_threads_read_the_same(data_dir):
    source = open_source(f"tfds:tiny/train#data_dir={data_dir}")
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: value_of(source[i % 5]), range(100)))
    assert values == [i % 5 for i in range(100)]


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("tiny", "lacks a split"),
        ("none/train", "is not prepared in"),
        ("tiny:2.0.0/train", "is not prepared in"),
        ("tiny/test", "cannot be read"),
        ("tiny/train[3:3]", "is empty|cannot be read"),
    ],
)
def test_what_is_not_there_is_told(data_dir, place, what):
    with pytest.raises(UserError, match=rf"({what})[^\n]*\.$"):
        open_source(f"tfds:{place}#data_dir={data_dir}")


def test_images_that_do_not_exist_are_told(data_dir):
    with pytest.raises(UserError, match="images are image, mask"):
        open_source(f"tfds:tiny/train#data_dir={data_dir},image=label")


def test_tensorflow_is_not_imported(data_dir):
    code = (
        "import sys; from i2i_prior.data.sources.registry import open_source\n"
        f"source = open_source('tfds:tiny/train#data_dir={data_dir}')\n"
        "assert source[1].fields['label'] == 1\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
