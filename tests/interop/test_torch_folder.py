"""A prior as a folder of plain PyTorch: files, model card, other uses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from i2i_prior.data.crops import center_crop  # noqa: E402
from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.inference.prior import Prior  # noqa: E402
from i2i_prior.interop import torch_folder  # noqa: E402
from i2i_prior.models.preprocess import PREPROCESSING, square  # noqa: E402
from tests.interop.fixtures_torch_folder import (  # noqa: E402
    LIMIT,
    PROVENANCE,
    exported,
    nchw,
    nhwc,
    normal,
    open_module,
    pictures,
    relative_error,
)


def test_there_and_back_is_exact(pairs, tmp_path):
    for name, (ours, _, folder) in pairs.items():
        assert torch_folder.read_torch_folder(folder)[1] == ours.config
        parameters, config = torch_folder.read_torch_folder(folder)
        assert parameters.keys() == ours.parameters.keys()
        for key, array in ours.parameters.items():
            assert parameters[key].dtype == np.float32
            assert np.array_equal(parameters[key], array), key
        again = tmp_path / name
        torch_folder.write_torch_folder(again, parameters, config, PROVENANCE)
        first, second = (
            load_file(place / "model.safetensors") for place in (folder, again)
        )
        assert first.keys() == second.keys()
        for key, array in first.items():
            assert array.dtype == second[key].dtype == np.float32
            assert np.array_equal(array, second[key]), key
    loaded = Prior.load(again)
    assert loaded.layout == "torch"
    assert loaded.config == config


def test_keys_are_those_of_torch(pairs):
    state = load_file(pairs["modern"][2] / "model.safetensors")
    shapes = {key: array.shape for key, array in state.items()}
    assert shapes["dit.blocks.1.mlp.gate_value.weight"] == (160, 32)
    assert shapes["dit.blocks.0.attention.q_norm.weight"] == (16,)
    assert shapes["encoder.blocks.0.norm1.weight"] == (16,)
    assert shapes["conditioner.null"] == (21, 16)
    theirs = pairs["modern"][1].state_dict()
    assert {k: tuple(v.shape) for k, v in theirs.items()} == shapes


def test_five_lines_of_the_model_card(pairs, photos):
    """As written there, in a process that has no JAX and not this package."""
    folder = pairs["modern"][2]
    card = (folder / "README.md").read_text()
    lines = re.search(r"```python\n(.*?)```", card, re.S)[1]
    assert len(lines.splitlines()) == 5
    cat = folder.parent / "cat.png"
    cat.write_bytes(next(photos.iterdir()).read_bytes())
    blocked = (
        "import sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'i2i_prior', 'numpy'):\n"
        "    sys.modules[name] = None\n"
    )
    shown = "print(images.dtype, tuple(images.shape), images.float().std())\n"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", blocked + lines + shown],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "torch.uint8 (1, 4, 8, 8, 3)" in ended.stdout
    for fact in PROVENANCE.values():
        assert f"| {fact} |" in card
    assert "Apache-2.0" in card


def test_variations_do_not_depend_on_the_batch(pairs):
    ours, theirs, _ = pairs["modern"]
    images = pictures(20)
    options = {"num": 3, "seed": 4, "steps": 2}
    together = theirs.vary(list(images), **options)
    assert together.shape == (2, 3, 8, 8, 3)
    assert together.dtype == torch.uint8
    tensors = [torch.from_numpy(image) for image in images]
    apart = theirs.vary(tensors, batch_size=2, **options)
    assert (together.int() - apart.int()).abs().max() <= 1
    assert not torch.equal(together[0, 0], together[0, 1])
    frames = theirs.interpolate(*images, frames=3, seed=4, steps=2)
    assert frames.shape == (3, 8, 8, 3)
    # The first frame is the first variation, the end is of the other image.
    assert (frames[0].int() - together[0, 0].int()).abs().max() <= 1
    assert not torch.equal(frames[0], frames[2])
    latents = normal((2, 8, 8, 3), 6)
    decoded = ours._generator.decode(ours.parameters, jnp.asarray(latents))
    assert np.array_equal(theirs.decode(nchw(latents)), decoded)


def test_a_folder_of_an_earlier_version(pairs, tmp_path):
    """Opened by the torch file of today, with the field names of then."""
    _, theirs, folder = pairs["modern"]
    old = shutil.copytree(folder, tmp_path / "old")
    text = (old / "config.json").read_text()
    for new, former in (
        ('"conditioner.tokens_from"', '"conditioner.choice"'),
        ('"tokens_from"', '"choice"'),
        ('"diffusion.time_convention"', '"diffusion.convention"'),
        ('"native"', '"own"'),
    ):
        assert new in text
        text = text.replace(new, former)
    (old / "config.json").write_text(text)
    again = open_module(old).Prior.from_pretrained(old)
    image = pictures(20)[0]
    expected = theirs.vary([image], 1, steps=2)
    assert torch.equal(again.vary([image], 1, steps=2), expected)


def test_other_dtypes(pairs):
    _, theirs, folder = pairs["modern"]
    x, times = torch.randn(2, 3, 8, 8), torch.tensor([100.0, 900.0])
    tokens = torch.randn(2, 21, 16)
    with torch.no_grad():
        reference = theirs.predict(x, times, tokens)
        for dtype, limit in ((torch.float64, 1e-4), (torch.bfloat16, 0.2)):
            other = open_module(folder).Prior.from_pretrained(folder).to(dtype)
            found = other.predict(x, times, tokens)
            assert found.dtype == torch.float32
            assert 0 < relative_error(found, reference) < limit
            noise = torch.randn(1, 3, 8, 8)
            sampled = other.sample(noise, tokens[:1], steps=2)
            assert sampled.isfinite().all()
            assert other.embed([pictures(12)[0]]).isfinite().all()


def test_on_another_device(pairs):
    """The meta device stands for one: it refuses tensors of the CPU."""
    folder = pairs["modern"][2]
    theirs = open_module(folder).Prior.from_pretrained(folder).to("meta")
    images = list(pictures(20))
    varied = theirs.vary(images, num=2, steps=3)
    walk = theirs.interpolate(*images, frames=3, steps=3)
    assert varied.device == walk.device == torch.device("meta")
    assert varied.shape == (2, 2, 8, 8, 3)


@pytest.mark.parametrize("shape", [(40, 31), (9, 20), (12, 12)])
def test_views_are_those_of_pillow(shape, pairs):
    module = open_module(pairs["modern"][2])
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
    image = np.array(Image.fromarray(coarse).resize(shape[::-1]))
    tensor = torch.from_numpy(image)
    for dino, reference in (
        (False, center_crop(image, 12)),
        (True, square(image, PREPROCESSING["dino"], 12)),
    ):
        found = module.view(tensor, 12, dino).numpy()
        assert found.shape == (12, 12, 3)
        assert np.abs(found.astype(int) - reference).max() <= 1


def test_networks_of_others_are_left_to_them(pairs, tiny, tmp_path):
    """A foreign encoder and latents: predict and sample still work."""
    config = tiny("encoder.family=dinov2", "conditioner.expand=1")
    folder = tmp_path / "folder"
    ours, theirs = exported(config, folder)
    with pytest.raises(ValueError, match="encoder is dinov2"):
        theirs.embed([pictures()[0]])
    tokens = normal((1, 1, 16), 1)
    x, times = normal((1, 8, 8, 3), 2), np.float32([300.0])
    reference = ours.predict(x, times, tokens)
    with torch.no_grad():
        found = theirs.predict(
            nchw(x), torch.from_numpy(times), torch.from_numpy(tokens)
        )
    assert relative_error(nhwc(found), reference) <= LIMIT
    parameters, _ = torch_folder.read_torch_folder(folder)
    assert parameters.keys() == ours.parameters.keys()
    theirs.config = {**theirs.config, "autoencoder.kind": "sd"}
    with pytest.raises(ValueError, match="sd latents"):
        theirs.decode(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="dpmpp_2m, dpmpp_1s, ddim, euler"):
        theirs.sample(nchw(x), torch.from_numpy(tokens), solver="sde")
    with pytest.raises(ValueError, match="uint8"):
        open_module(folder).open_image(np.zeros((4, 4, 3)))


def test_an_autoencoder_beside_decodes(tiny, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config = tiny("autoencoder.kind=sd", "data.image_size=64")
    folder = tmp_path / "folder"
    exported(config, folder)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    vae.save_pretrained(folder / "autoencoder")
    theirs = open_module(folder).Prior.from_pretrained(folder)
    latents = torch.from_numpy(normal((1, 4, 8, 8), 0))
    with torch.no_grad():
        reference = vae.decode(latents / 0.18215).sample
    expected = (reference * 127.5 + 127.5).round().clamp(0, 255)
    found = theirs.decode(latents).permute(0, 3, 1, 2)
    assert found.float().std() > 0
    assert (found - expected).abs().max() <= 1
    images = theirs.vary([pictures()[0]], num=2, steps=1)
    assert images.shape == (1, 2, 16, 16, 3)  # the small one's factor is 2


def test_mistakes_are_named(pairs, tiny, tmp_path):
    ours, _, folder = pairs["lumos"]
    facts = ours.parameters, ours.config, PROVENANCE
    with pytest.raises(UserError, match="exists already"):
        torch_folder.write_torch_folder(folder, *facts)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        torch_folder.write_torch_folder(tmp_path / "file" / "x", *facts)
    empty = tmp_path / "empty"
    empty.mkdir()
    torch_folder.write_torch_folder(empty, *facts)
    assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []

    state = load_file(empty / "model.safetensors")
    state.pop("dit.blocks.1.mlp.fc1.weight")
    save_file(state, empty / "model.safetensors")
    with pytest.raises(UserError, match="1 missing"):
        torch_folder.read_torch_folder(empty)
    description = json.loads((empty / "config.json").read_text())
    description["format_version"] = 99
    (empty / "config.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="torch 99"):
        torch_folder.read_torch_folder(empty)
    with pytest.raises(ValueError, match=r"i2i_prior_torch\.py in it"):
        open_module(empty).Prior.from_pretrained(empty)
    (empty / "config.json").write_text("{}")
    with pytest.raises(UserError, match="copy the folder again"):
        torch_folder.read_torch_folder(empty)
    with pytest.raises(UserError, match="cannot read"):
        torch_folder.read_torch_folder(tmp_path)
