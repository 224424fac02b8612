"""Losses of the tiny run on meshes of 1 to 8 fake devices, as JSON.

    python tests/parallel/eight_devices.py FOLDER_OF_IMAGES BLOCK [MESH ...]

A process of its own, since the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FLAG = "--xla_force_host_platform_device_count"
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if not flag.startswith(FLAG)
        ),
        f"{FLAG}=8",
    ]
)

import jax  # noqa: E402

from i2i_prior.config import load_config  # noqa: E402
from i2i_prior.data.pipeline import Pipeline  # noqa: E402
from i2i_prior.data.sources.registry import open_source  # noqa: E402
from i2i_prior.parallel.mesh import batch_sharding, make_mesh  # noqa: E402
from i2i_prior.training.setup import build, data_options, to_device  # noqa: E402

# (replica, fsdp, context, tensor)
MESHES = {
    "one": (1, 1, 1, 1),
    "replica2": (2, 1, 1, 1),
    "replica8": (8, 1, 1, 1),
    "fsdp4": (1, 4, 1, 1),
    "fsdp8": (1, 8, 1, 1),
    "context2": (1, 1, 2, 1),
    "context4": (1, 1, 4, 1),
    "tensor2": (1, 1, 1, 2),
    "fsdp2_tensor2": (1, 2, 1, 2),
    "fsdp2_context2": (1, 2, 2, 1),
    "all": (1, 2, 2, 2),
    "replica2_fsdp2_tensor2": (2, 2, 1, 2),
}


def main(images: str, block: str, names: list[str]) -> None:
    """Prints {mesh: [losses of three steps]}; all meshes where none is named.

    The model is wide enough for eight ZeRO shards and four heads.
    """
    tiny = Path(__file__).parents[1] / "tiny_config.py"
    overrides = [f"model.block={block}", "model.heads=4", "data.image_size=16"]
    config = load_config(f"{tiny}:source=folder:{images}", overrides)
    pipeline = Pipeline(open_source(config.data.source), data_options(config))
    batches = [pipeline.batch(step) for step in range(3)]
    found = {
        name: losses(config, MESHES[name], batches) for name in names or MESHES
    }
    print(json.dumps(found))


def losses(config, sizes, batches) -> list[float]:
    """The first losses on a mesh of these sizes."""
    devices = jax.devices()[: sizes[0] * sizes[1] * sizes[2] * sizes[3]]
    mesh = make_mesh(*sizes, devices=devices)
    program = build(config, mesh)
    state, values = program.initialise(), []
    for batch in batches:
        batch = to_device(batch, batch_sharding(mesh))
        state, metrics = program.step(state, batch)
        values.append(float(metrics["loss"]))
    return values


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
