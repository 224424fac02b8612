"""Folders of prepared examples: their sources and their contents."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from i2i_prior.data.builtin import PhotoSource
from i2i_prior.data.manifest import Plan, read_manifest
from i2i_prior.data.prepare.folder import fields_of


def jpeg(pixels: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


def write_photos(folder: Path, count: int, height: int, width: int) -> Path:
    """JPEGs cut out of real photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = PhotoSource("photos/heldout")
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = photos[number % len(photos)].data
        top = int(rng.integers(pixels.shape[0] - height))
        left = int(rng.integers(pixels.shape[1] - width))
        cut = pixels[top : top + height, left : left + width]
        (folder / f"{number:03}.jpg").write_bytes(jpeg(cut))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden or not."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def examples(folder: Path) -> list[dict]:
    """All examples, in order."""
    manifest = read_manifest(folder)
    found = []
    for shard in manifest.shards:
        reader = ArrayRecordReader(str(folder / shard.file))
        records = reader.read_all()
        assert len(records) == shard.count
        found += map(manifest.layout.unpack, records)
    assert len(found) == manifest.count
    return found


def dropped(folder: Path) -> list[dict]:
    """The lines of dropped.jsonl."""
    lines = (folder / "dropped.jsonl").read_text().splitlines()
    return list(map(json.loads, lines))


def plan_of(records: int) -> Plan:
    """Plan of one shard of images."""
    return Plan(
        kind="images",
        fields=fields_of((), True, ()),
        source="folder:/x",
        source_fingerprint="0" * 16,
        records=records,
        examples_per_shard=records,
        preprocessing={},
        autoencoder=None,
        encoders={},
        version="0",
    )
