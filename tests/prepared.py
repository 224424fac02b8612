"""Prepared folders, written by hand."""

from __future__ import annotations

import hashlib
import json

from array_record.python import array_record_module

from i2i_prior.data.examples import Field, Layout
from i2i_prior.data.manifest import content_hash


def write_prepared(folder, latents, embeddings, **manifest):
    """A folder as `i2i-prior prepare` writes it, in shards of 40.

    Args:
      folder: an empty one.
      latents, embeddings: (N, V, ...) arrays, the embeddings called as the
        one encoder of the manifest.
      manifest: what differs from a plain one.
    """
    dino = {"family": "dino", "choice": "cls", "view_size": 8, "sha256": "b"}
    encoders = manifest.setdefault("encoders", {"dino": dino})
    (name,) = encoders
    arrays = {"latent": latents, f"embedding/{name}": embeddings}
    layout = Layout(
        [
            *(
                Field(n, "array", a.dtype.name, a.shape[1:])
                for n, a in arrays.items()
            ),
            Field("name", "text"),
        ]
    )
    shards = []
    for start in range(0, len(latents), 40):
        file = folder / f"data-{start // 40:05d}.array_record"
        writer = array_record_module.ArrayRecordWriter(
            str(file), "group_size:1,uncompressed"
        )
        rows = range(start, min(start + 40, len(latents)))
        for row in rows:
            example = {n: a[row] for n, a in arrays.items()}
            writer.write(layout.pack({**example, "name": f"n{row}"}))
        writer.close()
        data = file.read_bytes()
        shards.append(
            {
                "file": file.name,
                "count": len(rows),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    document = {
        "format": 1,
        "kind": "latents",
        "fields": layout.to_json(),
        "count": len(latents),
        "records": len(latents),
        "examples_per_shard": 40,
        "shards": shards,
        "source": "folder:/x",
        "source_fingerprint": "0" * 16,
        "dropped": {},
        "preprocessing": {"size": 32},
        "autoencoder": {"kind": "sd", "shape": "", "sha256": "a"},
        "version": "0",
        "content_hash": content_hash(shard["sha256"] for shard in shards),
        **manifest,
    }
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder
