"""Prepared folders of arrays, without networks."""

from __future__ import annotations

from i2i_prior.data.examples import Field, Layout
from i2i_prior.data.manifest import Plan
from i2i_prior.data.prepare.folder import finish
from i2i_prior.data.prepare.shards import write_shard


def write_prepared(folder, latents, embeddings, **said):
    """A folder as `i2i-prior prepare` leaves it, in shards of 40.

    Args:
      folder: an empty one.
      latents, embeddings: (N, V, ...) arrays, the embeddings called as the
        one encoder of the manifest.
      said: what differs from a plain manifest.
    """
    dino = {"family": "dino", "choice": "cls", "view_size": 8, "sha256": "b"}
    (name,) = encoders = said.pop("encoders", {"dino": dino})
    arrays = {"latent": latents, f"embedding/{name}": embeddings}
    fields = [
        Field(key, "array", array.dtype.name, array.shape[1:])
        for key, array in arrays.items()
    ]
    plain = {
        "preprocessing": {"size": 32},
        "autoencoder": {"kind": "sd", "shape": "", "sha256": "a"},
    }
    plan = Plan(
        kind="latents",
        fields=Layout([*fields, Field("name", "text")]).to_json(),
        source="folder:/x",
        source_fingerprint="0" * 16,
        records=len(latents),
        examples_per_shard=40,
        encoders=encoders,
        version="0",
        **{**plain, **said},
    )
    for shard in range(plan.shard_count):
        made = (
            {**{n: a[row] for n, a in arrays.items()}, "name": f"n{row}"}
            for row in plan.indices(shard)
        )
        write_shard(folder, plan, shard, made, tick=lambda records: None)
    finish(folder, plan, max_broken=0)
    return folder
