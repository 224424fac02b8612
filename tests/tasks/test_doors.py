"""Conditions through three doors, in training and in sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.tasks import registry
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.conditions import Conditions
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.validate import validate
from tests.data.fixtures_sources import png, write_tar

NO_TOKENS = ("conditioner.tokens_from=none", "encoder.kind=none")
PAIRED = (
    "task=paired",
    "data.pair=labels.png:photo.png",
    "conditioner.concat_from=source",
    *NO_TOKENS,
)
CLASSES = ("model.classes=3", *NO_TOKENS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    """SPEC of twelve pairs: a photograph, and its negative as the labels."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for number in range(12):
        photo = rng.integers(0, 256, (10, 10, 3), np.uint8)
        Image.fromarray(photo).save(folder / f"{number}.photo.png")
        Image.fromarray(255 - photo).save(folder / f"{number}.labels.png")
    return f"folder:{folder}#image=photo.png"


def example(task: Task, count: int = 4) -> dict:
    """Random arrays as `example_spec` says."""
    rng, found = np.random.default_rng(1), {}
    for name, one in task.example_spec.items():
        most = 3 if name == "label" else 256
        shape = (count, *one.shape)
        found[name] = rng.integers(0, most, shape).astype(one.dtype)
    return found


def parameters(task: Task) -> dict:
    """Random ones, so that no zero-initialised layer hides a condition."""
    trained, frozen = task.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(trained)))
    trained = {
        name: array + 0.1 * jax.random.normal(next(keys), array.shape)
        for name, array in trained.items()
    }
    return {**trained, **frozen}


def loss_of(task: Task, batch: dict, **changes) -> np.ndarray:
    draws = task.draw(jax.random.key(2), task.shape_of(batch)) | changes
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    return np.asarray(task.loss(parameters(task), batch, draws)[0])


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((), {"image", "view"}),
        (CLASSES, {"image", "label"}),
        (PAIRED, {"image", "source_image"}),
        (PAIRED[:-2], {"image", "view", "source_image"}),
    ],
)
def test_an_example_holds_what_its_doors_read(tiny, overrides, names):
    task = make_task(tiny(*overrides))
    assert set(task.example_spec) == names
    assert loss_of(task, example(task)).shape == (4,)


@pytest.mark.parametrize(
    ("overrides", "door"), [(CLASSES, "label"), (PAIRED, "source_image")]
)
def test_the_loss_sees_a_condition_unless_it_is_dropped(tiny, overrides, door):
    task = make_task(tiny(*overrides))
    batch = example(task)
    other = {
        **batch,
        door: 2 - batch[door] if door == "label" else ~batch[door],
    }
    keep, drop = jnp.zeros(4, bool), jnp.ones(4, bool)
    seen = loss_of(task, batch, drop=keep)
    assert (seen != loss_of(task, other, drop=keep)).any()
    unseen = loss_of(task, batch, drop=drop)
    assert (unseen == loss_of(task, other, drop=drop)).all()
    assert (unseen != seen).all()


@pytest.mark.parametrize("overrides", [CLASSES, PAIRED])
def test_guidance_moves_away_from_the_null_that_was_trained(tiny, overrides):
    task = make_task(tiny(*overrides))
    batch = example(task)
    weights = parameters(task)
    given = {n: jnp.asarray(a) for n, a in batch.items() if n != "image"}
    tokens, conditions = task.condition(weights, given)
    assert tokens is None
    x = jax.random.normal(jax.random.key(3), task.latent_shape(4))
    t = jnp.full(4, 0.5)

    def predict(guidance, conditions):
        return task.predictor(weights, None, guidance, conditions=conditions)(
            x, t
        )

    cond = predict(1.0, conditions)
    null = (
        Conditions(pooled=jnp.full(4, 3))
        if conditions.concat is None
        else Conditions(concat=jnp.zeros_like(conditions.concat))
    )
    uncond = predict(1.0, null)
    guided = predict(jnp.float32(3.0), conditions)
    np.testing.assert_allclose(
        guided, cond + 2 * (cond - uncond), rtol=1e-4, atol=1e-5
    )


def test_paired_translation_trains_on_pairs(train, pairs):
    data = f"data.source={pairs}", f"data.held_out={pairs}"
    ended = train(*data, *PAIRED, "train.steps=3")
    assert ended.code == 0, ended.err


def test_a_class_conditional_model_trains_on_labels(train, tmp_path):
    members = {}
    for number in range(9):
        members[f"{number}.png"] = png(number)
        members[f"{number}.cls"] = str(number % 3).encode()
    write_tar(tmp_path / "x.tar", members)
    data = f"data.source=tar:{tmp_path}/x.tar"
    ended = train(data, *CLASSES, "train.steps=3")
    assert ended.code == 0, ended.err


def test_an_image_without_a_label_is_broken(train, tmp_path):
    members = {f"{number}.png": png(number) for number in range(9)}
    write_tar(tmp_path / "x.tar", members)
    ended = train(f"data.source=tar:{tmp_path}/x.tar", *CLASSES)
    assert ended.code == 1
    assert "a class label" in ended.err


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("task=paired",), "needs data.pair"),
        (PAIRED[:2] + NO_TOKENS, "shows the model no source"),
        (("data.pair=a.png:b.png",), "are for pairs; set task=paired"),
        ((*PAIRED, "data.aspect_buckets=true"), "without data.aspect_buckets"),
        (("task=other",), "task is 'other'; choose i2i or paired"),
        (("conditioner.tokens_from=tokens",), "reads prepared embeddings"),
        (("conditioner.tokens_from=none",), "nothing reads an encoder"),
        ((*NO_TOKENS, "conditioner.noise=0.1"), "conditioner.noise is for tok"),
    ],
)
def test_conditions_that_nobody_would_see_are_refused(tiny, overrides, says):
    with pytest.raises(UserError, match=says):
        validate(tiny(*overrides), 1)


def test_a_new_task_is_a_class_and_an_entry(train, monkeypatch):
    seen = []

    class Inverted(Task):
        """Learns the negative of each image from its own embedding."""

        def read(self, model, batch, noise):
            seen.append(sorted(batch))
            inputs = super().read(model, batch, noise)
            return inputs._replace(x0=-inputs.x0)

    monkeypatch.setitem(registry.TASKS, "inverted", Inverted)
    ended = train("task=inverted", "train.steps=2")
    assert ended.code == 0, ended.err
    assert seen[0] == ["image", "view"]
