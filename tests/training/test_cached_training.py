"""Training from prepared latents: what it computes, and what it refuses."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.evaluation import validation_losses
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.telemetry.metric_writer import read_metrics
from tests.fixtures_prepared import write_prepared

SHAPE = json.dumps(
    {"kind": "kl", "channels": 4, "widths": [8, 8], "blocks": [1, 1]}
    | {"groups": 4, "scale": 0.5, "shift": 0.1}
)
FROZEN = (
    "encoder.kind=frozen",
    "encoder.weights=random",
    "autoencoder.kind=sd",
    f"autoencoder.shape={SHAPE}",
    "autoencoder.weights=random",
    "model.patch=2",
)
CACHED = (
    *FROZEN,
    "data.cached=true",
    "encoder.kind=none",
    "autoencoder.weights=",
    "data.flip=0.0",
    "train.steps=4",
)


def inputs(task: Task, parameters: dict, batch: dict) -> dict:
    """Latents and embeddings of a batch as `prepare` stores them, float32."""

    @jax.jit
    def encode(parameters, images, views):
        model = task.functional.merge(parameters)
        latent = model.autoencoder.gaussian(images / 127.5 - 1)
        features = model.encoder(views / 127.5 - 1)
        return jnp.concatenate(latent, -1), features.cls[:, None]

    pictures = (batch[n].astype(np.float32) for n in ("image", "view"))
    latent, embedding = jax.device_get(encode(parameters, *pictures))
    return {"latent": latent, "embedding": embedding}


@pytest.fixture(scope="module")
def prepared(tiny, batches, tmp_path_factory):
    """The first batches of the tiny run as a prepared folder."""
    task = make_task(tiny(*FROZEN))
    parameters = _all(task)
    found = [inputs(task, parameters, batch) for batch in batches[:4]]
    arrays = {
        name: np.concatenate([f[name] for f in found])[:, None]
        for name in found[0]
    }
    return write_prepared(
        tmp_path_factory.mktemp("prepared"),
        arrays["latent"].astype(np.float16),
        arrays["embedding"].astype(np.float16),
        preprocessing={"size": 8},
        autoencoder={
            "kind": "sd",
            "shape": task.shapes.latent.to_json(),
            "sha256": "a",
        },
        encoders={
            "random": {
                "family": "dino",
                "choice": "cls",
                "view_size": 8,
                "sha256": "b",
            }
        },
    )


def _all(task: Task) -> dict:
    trained, frozen = task.init(jax.random.key(1))
    return {**trained, **frozen}


def test_the_loss_is_that_of_images(tiny, batches):
    """The same draws, latents and embeddings: only where they come from."""
    online, cached = make_task(tiny(*FROZEN)), make_task(tiny(*CACHED))
    parameters = _all(online)
    batch = {name: batches[0][name] for name in ("image", "view")}
    stored = inputs(online, parameters, batch)
    key = jax.random.key(3)
    draws = online.draw(key, online.shape_of(batch))
    again = cached.draw(key, cached.shape_of(stored))
    jax.tree.map(np.testing.assert_array_equal, draws, again)
    wanted, _ = jax.jit(online.loss)(parameters, batch, draws)
    found, _ = jax.jit(cached.loss)(parameters, stored, again)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


def losses(workdir) -> list[tuple[float, float, str]]:
    """(step, value, name) of each loss, validation losses among them."""
    return [
        (line["step"], line[name], name)
        for line in read_metrics(workdir)
        for name in ("loss", "validation/raw_training")
        if name in line
    ]


def test_a_run_trains_and_resumes(command, tiny_spec, prepared, tmp_path):
    arguments = ["--config", tiny_spec, "--workdir", tmp_path / "run"]
    arguments += [f"--config.data.source=arrayrecord:{prepared}"]
    arguments += [f"--config.{text}" for text in CACHED]
    arguments += [f"--config.validation.source=arrayrecord:{prepared}"]
    arguments += [
        f"--config.validation.{name}={value}"
        for name, value in (("every", 2), ("examples", 6), ("times", 2))
    ]
    ended = command("train", *arguments)
    assert ended.code == 0, ended.err
    assert f"32 images of arrayrecord:{prepared}" in ended.err
    first = losses(tmp_path / "run")
    assert [step for step, _, _ in first] == [1, 2, 2, 3, 4, 4]
    assert all(np.isfinite(loss) for _, loss, _ in first)
    table = validation_losses.read(tmp_path / "run", 4)["raw"]
    assert table.mse.shape == (6, 2)
    # Cut off after step 2: the same command goes on.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    ended = command("train", *arguments)
    assert "resumed, step 2" in ended.err
    assert losses(tmp_path / "run") == first


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.image_size=16", "was prepared with size 8, but the config"),
        ("data.flip=0.5", "holds no mirrored latents; set data.flip=0"),
        ("data.embedding=dino", "data.embedding is 'dino', but"),
        ("encoder.width=32", "embeddings of shape (1, 16), but the config"),
        (
            "encoder.kind=frozen | encoder.weights=random | encoder.family=mae",
            "encoder.family dino, but the config wants mae",
        ),
        ("encoder.kind=joint", "set encoder.kind to frozen or none"),
        (
            f"autoencoder.shape={SHAPE.replace('0.5', '0.7')}",
            "was prepared with an autoencoder of shape",
        ),
        ("autoencoder.kind=pixels", "data.cached reads prepared latents"),
        ("data.source=builtin:photos", "set data.source to arrayrecord:FOLDER"),
        (
            "data.cached=false | encoder.kind=joint | "
            "autoencoder.weights=random",
            "holds prepared latents and no images",
        ),
        ("conditioner.tokens_from=patches", "embeddings that are cls, but"),
        ("data.view_jitter=0.5", "data.view_jitter is for images"),
        ("seed=-1", "config field seed is -1; it must be 0 or more"),
    ],
)
def test_other_data_are_refused(
    command, tiny_spec, prepared, tmp_path, override, said
):
    ended = command(
        "train",
        *("--config", tiny_spec, "--workdir", tmp_path / "run"),
        f"--config.data.source=arrayrecord:{prepared}",
        *(f"--config.{text}" for text in (*CACHED, *override.split(" | "))),
    )
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_pictures_need_networks(command, tiny_spec, prepared, tmp_path):
    ended = command(
        "train",
        *("--config", tiny_spec, "--workdir", tmp_path / "run"),
        f"--config.data.source=arrayrecord:{prepared}",
        *(f"--config.{text}" for text in CACHED),
        "--config.encoder.kind=none",
        "--config.train.sample_every=2",
    )
    assert ended.code == 1
    assert "or set both to 0" in ended.err
