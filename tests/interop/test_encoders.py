"""Published image encoders against transformers, every weight random.

Files are written by transformers' own `save_pretrained`, so keys are those of
the published checkpoints. Official names are renamings of these weights.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from i2i_prior.errors import UserError
from i2i_prior.inference.encoder import load_encoder
from i2i_prior.inference.frozen_encoders import open_encoder
from i2i_prior.interop import encoders, native
from i2i_prior.interop.files.state_dicts import StateDict, read_state_dict
from i2i_prior.interop.layouts.vit import LAYOUTS
from i2i_prior.interop.text import TextEncoder
from i2i_prior.models.encoder_families import FAMILIES
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT, ViTConfig
from i2i_prior.parallel.sharding import parameter_shardings
from i2i_prior.tasks.resolve import resolve
from tests.interop.fixtures_encoders import (
    HEADS,
    LIMIT,
    MEMORY,
    MODELS,
    OTHER,
    SIZE,
    authors,
    compare,
    error,
    openai,
    randomised,
    reference,
    torch,
    with_head,
    with_official_positions,
)


@pytest.fixture(scope="module")
def models():
    return {name: randomised(make()) for name, (make, _) in MODELS.items()}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """Each model as transformers saves it."""
    root = tmp_path_factory.mktemp("encoders")
    for name, model in models.items():
        model.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def states(folders):
    return {name: read_state_dict(folders / name) for name in MODELS}


@pytest.fixture(scope="module")
def loaded(states):
    """Encoders by name: (config, parameters, notes)."""
    return {name: encoders.load(state) for name, state in states.items()}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, *s, 3)).astype("f4") for s in (SIZE, OTHER)]


@functools.cache
def program(config: ViTConfig):
    functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
    return jax.jit(lambda p, batches: [functional.merge(p)(x) for x in batches])


def forward(config: ViTConfig, parameters, batches):
    """Features of batches of several sizes, one program."""
    return program(config)(parameters, batches)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_transformers(name, models, loaded, pictures):
    options = MODELS[name][1]
    config, parameters, _ = loaded[name]
    assert config.family == options[3]
    norms = [m for m in models[name].modules() if hasattr(m, "eps")]
    epsilon = config.epsilon or FAMILIES[config.family].epsilon
    assert epsilon == norms[0].eps
    if name == "siglip":  # pixels that fill no patch, as so400m has them
        pictures = [
            np.pad(p, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="reflect")
            for p in pictures
        ]
    features = forward(config, parameters, pictures)
    for batch, ours in zip(pictures, features, strict=True):
        compare(config, ours, reference(models[name], options, batch))


@pytest.mark.parametrize(
    ("name", "layout"), [("vit", "dino"), ("dinov2", "dinov2_hub")]
)
def test_official_positions(name, layout, models, states, pictures):
    """Official names, and the + 0.1 of the official interpolation."""
    model = with_official_positions(copy.deepcopy(models[name]))
    state = StateDict.from_arrays(authors(states[name]))
    config, parameters, _ = encoders.load(state, heads=HEADS)
    assert config.family == layout
    features = forward(config, parameters, pictures)
    for batch, ours in zip(pictures, features, strict=True):
        compare(config, ours, reference(model, MODELS[name][1], batch))


def official(name, states) -> tuple[StateDict, str]:
    """A model under its authors' names, and the layout of these."""
    if name == "clip":
        return StateDict.from_arrays(openai(states["clip"])), "clip_openai"
    prefix = "vit." if name == "mae" else ""
    layout = {"vit": "dino", "mae": "mae", "ijepa": "ijepa"}
    arrays = authors(states[name], prefix)
    return StateDict.from_arrays(arrays), layout.get(name, "dinov2_hub")


@pytest.mark.parametrize(
    "name", ["vit", "mae", "ijepa", "dinov2", "registers", "clip"]
)
def test_official_names_hold_the_same_parameters(name, states, loaded):
    state, layout = official(name, states)
    assert encoders.detect(state) == layout
    config, parameters, _ = encoders.load(state, heads=HEADS)
    expected, same, _ = loaded[name]
    assert parameters.keys() == same.keys()
    assert all(np.array_equal(parameters[k], same[k]) for k in same)
    changed = {"family": expected.family, "epsilon": expected.epsilon}
    assert dataclasses.replace(config, **changed) == expected
    assert_round_trip(state, layout, config, parameters)


def assert_round_trip(state, layout, config, parameters):
    """Every key but the ignored ones comes back, bit for bit."""
    spec = LAYOUTS[layout]
    prefix = encoders.describe(state, heads=HEADS).prefix
    ignored = re.compile("|".join(spec.ignore) or "(?!)")
    wanted = {key for key in state if not ignored.search(key)}
    written = dict(encoders.export(parameters, config, layout))
    if prefix != spec.prefixes[0]:  # a bare model, or one with a head
        first = spec.prefixes[0]
        written = {prefix + k.removeprefix(first): written[k] for k in written}
    assert written.keys() == wanted
    for key, tensor in written.items():
        array = tensor.read()
        assert array.dtype == np.float32
        assert array.shape == tensor.shape
        assert np.array_equal(array, state[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_round_trips_are_exact(name, states, loaded):
    config, parameters, _ = loaded[name]
    layout = MODELS[name][1][2]
    assert encoders.detect(states[name]) == layout
    assert_round_trip(states[name], layout, config, parameters)


def assert_same(found, expected):
    """Config, so much for the epsilon, and parameters, bit for bit."""
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        assert np.array_equal(found[1][name], array), name


@pytest.mark.parametrize("name", MEMORY)
def test_names_in_memory(name, models, loaded, pictures, tmp_path):
    """torch.save(model.state_dict()) and no config.json."""
    base, head, layout = MEMORY[name]
    model = with_head(models[base], head) if head else models[base]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    state = read_state_dict(tmp_path / "model.pt")
    assert encoders.detect(state) == layout
    config, parameters, notes = encoders.load(state, heads=HEADS)
    assert_same((config, parameters), loaded[base])
    assumed = any("epsilon of 1e-12 is assumed" in note for note in notes)
    assert assumed == ("dinov2" not in layout)
    assert_round_trip(state, layout, config, parameters)
    features = forward(config, parameters, pictures)
    options = MODELS[base][1]
    for batch, ours in zip(pictures, features, strict=True):
        compare(config, ours, reference(models[base], options, batch))


def test_a_bare_mae_in_memory(models, loaded, tmp_path):
    """Keys of a ViTModel: the family or a config.json tells them apart."""
    path = tmp_path / "pytorch_model.bin"
    bare = models["mae"].vit
    torch.save(bare.state_dict(), path)
    state = read_state_dict(path)
    found = encoders.load(state, heads=HEADS, family="mae")
    assert_same(found, loaded["mae"])
    _, _, notes = encoders.load(state, heads=HEADS)
    assert any("needs the family mae" in note for note in notes)
    bare.config.save_pretrained(tmp_path)
    encoder = load_encoder(path)
    assert_same((encoder.config, encoder.parameters), loaded["mae"])


@pytest.mark.parametrize("name", ["vit", "mae", "ijepa", "dinov2"])
def test_names_on_disk_without_config(name, states, loaded):
    bare = StateDict.from_arrays(dict(states[name]))
    assert_same(encoders.load(bare, heads=HEADS), loaded[name])


def test_bfloat16(models, loaded, pictures):
    config, parameters, _ = loaded["registers"]
    config = dataclasses.replace(config, precision="bfloat16")
    (ours,) = forward(config, parameters, pictures[1:])
    expected = reference(
        models["registers"], MODELS["registers"][1], pictures[1]
    )
    compare(config, ours, expected, limit=5e-2)


def said(function, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    return str(caught.value)


def test_encoder_of_a_folder(folders, models, meshes):
    encoder = load_encoder(folders / "registers", image_size=SIZE[0])
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8))
    vectors = encoder.embed(images, batch_size=2)  # the last batch is filled
    pixels = encoder.preprocess(images)
    assert pixels.shape == (3, *SIZE, 3)
    expected = reference(models["registers"], MODELS["registers"][1], pixels)
    cls = expected["tokens"][:, 0]
    cls /= np.linalg.norm(cls, axis=1, keepdims=True)
    assert error(vectors, cls) <= LIMIT
    # The same with its parameters over four devices.
    shardings = parameter_shardings(encoder.parameters, meshes["tensor"])
    encoder.parameters = jax.device_put(encoder.parameters, shardings)
    assert error(encoder.embed(images, batch_size=2), cls) <= LIMIT
    assert "does not split into" in said(
        encoder, np.zeros((1, 18, 18, 3), "f4")
    )


def test_which_encoder_is_loaded(folders, tmp_path):
    clip = folders / "clip"
    vision = load_encoder(clip, precision="bfloat16")
    assert (vision.config.family, vision.config.precision) == (
        "clip",
        "bfloat16",
    )
    assert any("weights that the encoder" in note for note in vision.notes)
    assert isinstance(load_encoder(clip, part="text"), TextEncoder)
    state = read_state_dict(clip)
    alone = {k: state[k] for k in state if k.startswith("text_")}
    save_file(alone, tmp_path / "text.safetensors")
    text = load_encoder(tmp_path / "text.safetensors", heads=2)
    assert isinstance(text, TextEncoder)
    assert "no weight file" in said(load_encoder, tmp_path / "none")
    assert "choose vision or text" in said(load_encoder, clip, part="both")
    assert "choose one of" in said(load_encoder, clip, precision="float8")
    assert "an image or more" in said(vision.embed, [])


def test_an_export_of_a_run_sees_what_the_run_saw(tiny, tmp_path):
    config = tiny("encoder.pixels=symmetric")
    shape = resolve(config).encoder
    _, init = make_functional(lambda rngs: ViT(shape, rngs=rngs))
    parameters = {f"encoder/{k}": v for k, v in init(jax.random.key(0)).items()}
    path = tmp_path / "run.safetensors"
    native.write(path, parameters, config, {})
    encoder = load_encoder(path)
    assert encoder.config == shape
    size = shape.image_size
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    image = image.astype(np.uint8)
    np.testing.assert_allclose(
        encoder.preprocess([image])[0], image / 127.5 - 1, atol=1e-6
    )
    assert encoder.preprocess([image] * 2).dtype == np.float32
    assert open_encoder(f"x={path}").record["pixels"] == "symmetric"
    assert "leave heads" in said(load_encoder, path, heads=4)
    native.write(path, {"dit/x": np.zeros(2, "f4")}, config, {})
    assert "holds no encoder" in said(load_encoder, path)
