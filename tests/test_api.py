"""Python interface: `Prior` and `load_encoder`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from i2i_prior import Prior, load_encoder
from i2i_prior.errors import UserError
from i2i_prior.inference.generator import draw_noise


@pytest.fixture(scope="module")
def prior(run_directory):
    return Prior.load(run_directory)


@pytest.fixture(scope="module")
def exported(command, run_directory, tmp_path_factory):
    """Files of the whole run, and of its encoder alone."""
    folder = tmp_path_factory.mktemp("exported")
    files = folder / "prior.safetensors", folder / "encoder.safetensors"
    for part, file in zip(("all", "encoder"), files, strict=True):
        arguments = "--workdir", run_directory, "--part", part, "--out", file
        ended = command("export", *arguments)
        assert ended.code == 0, ended.err
    return files


@pytest.fixture(scope="module")
def pictures(photos):
    return sorted(photos.iterdir())


@pytest.fixture(scope="module")
def inputs(prior, pictures):
    """Noise, time and the embeddings of two pictures."""
    return draw_noise(3, range(2), (8, 8, 3)), prior.embed(pictures[:2])


def test_run_and_file_are_one_model(prior, exported, inputs):
    file = Prior.load(exported[0])
    assert prior.step == 6
    assert file.config == prior.config
    assert set(file.parameters) == set(prior.parameters)
    for name, array in prior.parameters.items():
        assert array.dtype == jnp.float32
        assert np.array_equal(array, file.parameters[name]), name
    x, tokens = inputs
    time = jnp.array([300.0, 700.0])
    found = prior.predict(x, time, tokens=tokens)
    assert found.shape == (2, 8, 8, 3)
    assert found.dtype == jnp.float32
    assert np.std(found) > 0
    assert np.array_equal(found, file.predict(x, time, tokens=tokens))


def test_another_checkpoint_of_the_run(run_directory, prior):
    before = Prior.load(run_directory, step=4)
    assert before.step == 4
    name = "dit/final/out/kernel"
    assert not np.array_equal(before.parameters[name], prior.parameters[name])


def test_predict_takes_the_time_the_network_was_trained_with(prior, inputs):
    x, tokens = inputs
    found = prior.predict(x, jnp.array([250.0, 250.0]), tokens=tokens)
    predict = prior.task.predictor(prior.parameters, tokens)
    wanted = predict(x, jnp.array([0.25, 0.25]))
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)
    other = prior.predict(x, jnp.array([750.0, 750.0]), tokens=tokens)
    assert not np.allclose(found, other, 1e-3, 1e-4)


def test_predict_masks_condition_tokens(prior, inputs):
    x, tokens = inputs
    time = jnp.array([500.0, 500.0])

    def predict(mask):
        return prior.predict(x, time, tokens=tokens, mask=jnp.array(mask))

    # The condition's weight is still small after six steps.
    seen = np.asarray(predict([[True, True]] * 2))
    assert np.array_equal(seen, prior.predict(x, time, tokens=tokens))
    masked = np.asarray(predict([[True, True], [True, False]]))
    assert np.array_equal(seen[0], masked[0])
    assert not np.array_equal(seen[1], masked[1])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sample_is_the_solver_written_out(prior, inputs, guidance):
    """Two Euler steps on dx/dt = velocity, guided by hand."""
    noise, tokens = inputs
    found = prior.sample(
        noise, tokens, steps=2, guidance=guidance, solver="euler"
    )
    model = prior.task.functional.merge(prior.parameters)
    null = model.conditioner.null_embeddings(2)
    x = noise
    for time in (1000.0, 500.0):
        t = jnp.full((2,), time)
        velocity = prior.predict(x, t, tokens=tokens)
        without = prior.predict(x, t, tokens=null)
        x = x - 0.5 * (without + guidance * (velocity - without))
    np.testing.assert_allclose(found, x, 1e-4, 1e-4)
    again = prior.sample(
        noise, tokens, steps=2, guidance=guidance, solver="euler"
    )
    assert np.array_equal(found, again)


def close(images, others) -> bool:
    """Equal up to the rounding of another batch size."""
    difference = np.abs(images.astype(int) - others.astype(int))
    return difference.max() <= 1 and (difference > 0).mean() < 0.05


@pytest.mark.parametrize("solver", ["sde", "ancestral"])
def test_stochastic_samples_do_not_depend_on_their_batch(
    prior, pictures, solver
):
    options = {"num": 3, "seed": 5, "solver": solver, "steps": 3}
    images = prior.vary(pictures[:2], **options)
    small = prior.vary(pictures[:2], batch_size=4, **options)
    assert close(images, small)
    assert not close(images[0, 0], images[0, 1])


def test_vary(prior, pictures):
    images = prior.vary(pictures[:2], num=3, seed=5)
    assert images.shape == (2, 3, 8, 8, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1
    assert np.array_equal(images, prior.vary(pictures[:2], num=3, seed=5))
    assert not close(images, prior.vary(pictures[:2], num=3, seed=6))
    for one, other in ((0, 1), (1, 2)):
        assert not close(images[0, one], images[0, other])
    # Sample (i, k) is the same in batches of 4, and padded.
    seen = []
    small = prior.vary(
        pictures[:2], num=3, seed=5, batch_size=4, progress=seen.append
    )
    assert close(images, small)
    assert seen == [4, 6]


def test_vary_takes_arrays_and_paths(prior, pictures):
    array = np.asarray(Image.open(pictures[0]))
    images = prior.vary([pictures[0], str(pictures[0]), array], num=1)
    # Other noise each, so compare what the encoder saw.
    views = prior.views([pictures[0], str(pictures[0]), array])
    assert images.shape == (3, 1, 8, 8, 3)
    assert np.array_equal(views[0], views[1])
    assert np.array_equal(views[0], views[2])


def test_interpolate(prior, pictures):
    start, end = pictures[:2]
    walk = prior.interpolate(start, end, frames=3, seed=4)
    assert walk.shape == (3, 8, 8, 3)
    assert walk.dtype == np.uint8
    assert np.array_equal(walk, prior.interpolate(start, end, 3, seed=4))
    # All frames share one noise, so turned round it is the same walk.
    assert close(walk, prior.interpolate(end, start, 3, seed=4)[::-1])
    assert not close(walk, prior.interpolate(start, end, 3, seed=5))
    # Frame 0 is the first variation of `start` with that seed.
    assert close(walk[0], prior.vary([start], num=1, seed=4)[0, 0])
    round_walk = prior.interpolate(start, end, 3, method="slerp", seed=4)
    assert close(walk[0], round_walk[0])


def test_interpolated_embeddings_are_those_of_the_ends(prior, pictures):
    seen = []
    images = prior._generator.images

    def spy(parameters, embeddings, noise, *rest):
        seen.append((embeddings, noise))
        return images(parameters, embeddings, noise, *rest)

    prior._generator.images = spy
    try:
        prior.interpolate(*pictures[:2], frames=3)
    finally:
        del prior._generator.images
    ((embeddings, noise),) = seen
    first, last = prior.embed(pictures[:2])
    np.testing.assert_allclose(embeddings[0], first, 1e-6, 1e-7)
    np.testing.assert_allclose(embeddings[1], (first + last) / 2, 1e-5, 1e-6)
    np.testing.assert_allclose(embeddings[2], last, 1e-6, 1e-7)
    assert np.array_equal(noise[0], noise[2])


@pytest.mark.parametrize("part", [0, 1])
def test_load_encoder_is_the_encoder_of_the_run(
    prior, exported, pictures, part
):
    encoder = load_encoder(exported[part])
    pixels = prior.views(pictures[:2]).astype("f4") / 127.5 - 1
    features = encoder(pixels)
    assert features.cls.shape == (2, 16)
    assert features.patches.shape == (2, 4, 16)
    model = prior.task.functional.merge(prior.parameters)
    np.testing.assert_allclose(
        model.conditioner.choose(features),
        prior.embed(pictures[:2]),
        1e-4,
        1e-5,
    )


def test_mistakes(prior, run_directory, exported, pictures, tmp_path):
    def said(function, *arguments, **options):
        with pytest.raises(UserError) as error:
            function(*arguments, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no file or folder" in said(Prior.load, tmp_path / "none")
    assert "no complete checkpoint of step 3" in said(
        Prior.load, run_directory, step=3
    )
    assert "does not hold this model" in said(Prior.load, exported[1])
    assert "no weight file by its name" in said(Prior.load, pictures[0])
    assert "no weight file" in said(load_encoder, tmp_path / "none")
    assert "cannot read the image" in said(prior.vary, [tmp_path / "x.png"])
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no image")
    assert "x.png is unusable" in said(prior.vary, [broken])
    floats = np.zeros((8, 8, 3))
    assert "an image array is uint8" in said(prior.vary, [floats])
    grey = np.zeros((8, 8), np.uint8)
    assert "an image array is uint8" in said(prior.vary, [grey])
    ends = pictures[:2]
    assert "2 frames or more" in said(prior.interpolate, *ends, frames=1)
    assert "'nlerp' is unknown" in said(
        prior.interpolate, *ends, method="nlerp"
    )
    assert "rk45" in said(prior.vary, ends, solver="rk45")
    assert "num" in said(prior.vary, ends, num=0)
    assert "image" in said(prior.vary, [])
    assert "steps" in said(prior.vary, ends, steps=-1)


def test_a_file_of_another_project(tmp_path):
    from safetensors.numpy import save_file

    file = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, "f4")}, file)
    with pytest.raises(UserError, match="no diffusion transformer of a known"):
        Prior.load(file)


def test_exports_are_plain_float32_with_their_provenance(exported, prior):
    import json

    from safetensors import safe_open

    with safe_open(exported[0], framework="numpy") as file:
        header = file.metadata()
        assert set(file.keys()) == set(prior.parameters)
        provenance = json.loads(header["provenance"])
    assert provenance["step"] == 6
    assert provenance["weights"] == "ema"
    assert len(provenance["config_hash"]) == 12
    count = sum(array.size for array in prior.parameters.values())
    assert exported[0].stat().st_size == pytest.approx(4 * count, rel=0.1)
    assert jax.tree.all(
        jax.tree.map(lambda a: a.dtype == np.float32, prior.parameters)
    )


def test_clip_bounds_the_latents(prior, pictures):
    tokens = prior.embed(pictures[:2])
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f4")
    free = prior.sample(noise, tokens)
    try:
        prior.config.sample.clip = 0.25
        held = prior.sample(noise, tokens)
    finally:
        prior.config.sample.clip = 0.0
    assert np.abs(free).max() > 0.3
    assert np.abs(held).max() <= 0.25 + 1e-6
