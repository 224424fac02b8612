"""A prior as a folder of plain PyTorch, against the JAX one, float32.

Every weight is random, the zero-initialised ones too, so each term of the
forward pass shows in the output.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from i2i_prior.api import Prior  # noqa: E402
from i2i_prior.data.images import center_crop  # noqa: E402
from i2i_prior.diffusion import samplers, solvers  # noqa: E402
from i2i_prior.diffusion.paths import get_path  # noqa: E402
from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.interop import mapping, torch_folder  # noqa: E402
from i2i_prior.models.dit import DiT, DiTConfig  # noqa: E402
from i2i_prior.models.functional import make_functional  # noqa: E402
from i2i_prior.models.preprocess import PREPROCESSING, square  # noqa: E402
from i2i_prior.tasks.i2i import I2ITask  # noqa: E402

# Of the largest value of the reference; 20 guided steps add up roundings.
LIMIT, SAMPLE_LIMIT = 1e-5, 1e-4
PROVENANCE = {
    "name": "cats",
    "step": 7,
    "weights": "ema",
    "config_hash": "0123456789ab",
    "data_source": "folder:cats",
    "data_fingerprint": "feed",
}
# The runs whose samples are compared: a path, a prediction, a grid, a block
# and a condition each.
RUNS = {
    "modern": (
        "conditioner.choice=pyramid",
        "encoder.image_size=12",  # 3 x 3 patches: cells overlap
        "sample.guidance_low=0.1",  # a time of the grid, in float32
        "sample.guidance_high=0.9",
    ),
    "lumos": (
        "model.block=lumos",
        "model.one_token=true",
        "conditioner.expand=1",
        "conditioner.null=random",
        "diffusion.path=ddpm_cosine",
        "diffusion.prediction=eps",
        "diffusion.learn_sigma=true",
        "sample.clip=1.0",
        "sample.lower_order_final=false",
    ),
    "pixart": (
        "model.block=pixart",
        "model.width=48",
        "model.size_conditions=true",
        "model.qk_norm=true",
        "model.base_size=3",
        "model.position_scale=2.0",
        "conditioner.choice=tokens",
        "conditioner.length=5",
        "conditioner.embedding_width=24",
        "conditioner.expand=1",
        "encoder.kind=none",
        "diffusion.path=ddpm_linear",
        "diffusion.prediction=v",
        "sample.solver=ddim",
        "sample.null_mask=caption",
    ),
}


def randomised(shapes, seed=0):
    """Name -> float32 array; products keep the scale of their input."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        noise = rng.standard_normal(shape).astype("f4")
        if name.endswith("/kernel"):
            return noise / np.float32(shape[-2] ** 0.5)
        return noise / 3 + np.float32(name.endswith("/gain"))

    return {name: draw(name, tuple(s.shape)) for name, s in shapes.items()}


def open_module(folder):
    """The folder's own i2i_prior_torch.py."""
    spec = importlib.util.spec_from_file_location(
        "exported_prior", folder / "i2i_prior_torch.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported(config, folder, seed=0):
    """A prior of random weights, and what torch makes of its folder."""
    shapes = I2ITask(config).functional.shapes()
    parameters = randomised(shapes, seed)
    size = torch_folder.write_torch_folder(
        folder, parameters, config, PROVENANCE
    )
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    ours = Prior(config, jax.tree.map(jnp.asarray, parameters))
    return ours, open_module(folder).Prior.from_pretrained(folder)


@pytest.fixture(scope="module")
def pairs(tiny, tmp_path_factory):
    """name -> (JAX prior, torch prior, folder)."""
    root = tmp_path_factory.mktemp("folders")
    return {
        name: (*exported(tiny(*overrides), root / name), root / name)
        for name, overrides in RUNS.items()
    }


def relative_error(found, reference):
    found, reference = np.asarray(found), np.asarray(reference)
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def nchw(array):
    return torch.from_numpy(np.asarray(array)).permute(0, 3, 1, 2)


def nhwc(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def pictures(side=12, count=2):
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def conditions(name, prior):
    """Tokens and the other doors of a run, as NumPy."""
    if name == "pixart":
        mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
        size = np.float32([[8, 8], [16, 4]])
        others = {"mask": mask, "size": size, "aspect": np.float32([[1], [4]])}
        return normal((2, 5, 24), 3), others
    side = prior.config.encoder.image_size
    return np.array(prior.embed(list(pictures(side)))), {}


@pytest.mark.parametrize("name", RUNS)
def test_samples_agree(name, pairs):
    ours, theirs, _ = pairs[name]
    tokens, others = conditions(name, ours)
    if name != "pixart":
        side = ours.config.encoder.image_size
        found = theirs.embed(list(pictures(side)))
        assert relative_error(found, tokens) <= LIMIT
    noise = normal((2, 8, 8, 3), 1)
    options = {"steps": 20, "guidance": 4.5}
    reference = ours.sample(noise, tokens, **options, **others)
    doors = {k: torch.from_numpy(v) for k, v in others.items()}
    tokens = torch.tensor(tokens)
    found = theirs.sample(nchw(noise), tokens, **options, **doors)
    assert found.dtype == torch.float32
    assert relative_error(nhwc(found), reference) <= SAMPLE_LIMIT
    # What was compared is the guided sample of these conditions.
    other = theirs.sample(nchw(noise), tokens.flip(0), **options, **doors)
    assert relative_error(nhwc(other), reference) > 0.01


@pytest.mark.parametrize("name", RUNS)
def test_raw_output_agrees(name, pairs):
    """On another size than the training's: positions are of the grid."""
    ours, theirs, _ = pairs[name]
    tokens, others = conditions(name, ours)
    x, times = normal((2, 8, 16, 3), 2), np.float32([17.5, 902.0])
    reference = ours.predict(x, times, tokens, **others)
    doors = {k: torch.from_numpy(v) for k, v in others.items()}
    with torch.no_grad():
        found = theirs(
            nchw(x), torch.from_numpy(times), torch.from_numpy(tokens), **doors
        )
    assert found.shape[1] == (6 if name == "lumos" else 3)
    assert relative_error(nhwc(found), reference) <= LIMIT


DOORS = {
    "classes": (
        DiTConfig(block="dit", cross_attention=False, qk_norm=True, classes=4),
        {"pooled": np.array([4, 0])},
    ),
    "vectors and latents": (
        DiTConfig(
            block="modern",
            cross_attention=False,
            pooled_width=6,
            concat_channels=2,
        ),
        {"pooled": normal((2, 6), 7), "concat": normal((2, 8, 8, 2), 8)},
    ),
    "class weights, masked tokens": (
        DiTConfig(block="dit", classes=4, learn_sigma=False),
        {
            "pooled": np.abs(normal((2, 5), 9)),
            "tokens": normal((2, 3, 32), 10),
            "mask": np.array([[1, 0, 1], [1, 1, 1]], bool),
        },
    ),
}


@pytest.mark.parametrize("name", DOORS)
def test_doors_of_the_dit(name, pairs):
    """The network alone, with doors that not every run has."""
    config, doors = DOORS[name]
    config = DiTConfig(
        **{
            **vars(config),
            "depth": 2,
            "width": 32,
            "heads": 4,
            "input_size": 8,
        }
    )
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))
    parameters = randomised(functional.shapes(), 4)
    x, times = normal((2, 8, 8, 4), 11), np.float32([3.0, 640.0])
    reference = jax.jit(lambda p, **d: functional.merge(p)(x, times, **d))(
        parameters, **doors
    )
    theirs = open_module(pairs["lumos"][2]).DiT(vars(config))
    named = {f"dit/{key}": value for key, value in parameters.items()}
    shapes = {key: value.shape for key, value in named.items()}
    written = mapping.save(named, torch_folder.torch_rules(shapes))
    theirs.load_state_dict(
        {
            key.removeprefix("dit."): torch.from_numpy(tensor.read())
            for key, tensor in written
        }
    )
    inputs = {
        k: nchw(v) if v.ndim == 4 else torch.from_numpy(v)
        for k, v in doors.items()
    }
    with torch.no_grad():
        found = theirs(nchw(x), torch.from_numpy(times), **inputs)
        assert relative_error(nhwc(found), reference) <= LIMIT
        with pytest.raises(ValueError, match="takes a pooled condition"):
            theirs(
                nchw(x), torch.from_numpy(times), **{**inputs, "pooled": None}
            )


@pytest.mark.parametrize("convention", ["sit", "unit"])
def test_conventions_of_time_and_sign(convention, pairs, tiny, tmp_path):
    config = tiny(
        *RUNS["modern"], f"diffusion.convention={convention}", "model.depth=1"
    )
    ours, theirs = exported(config, tmp_path / "folder")
    tokens, _ = conditions("modern", pairs["modern"][0])
    noise = normal((2, 8, 8, 3), 1)
    options = {"steps": 1, "guidance": 1.0}
    reference = ours.sample(noise, tokens, **options)
    found = theirs.sample(nchw(noise), torch.from_numpy(tokens), **options)
    assert relative_error(nhwc(found), reference) <= LIMIT


@pytest.mark.parametrize("path_name", ["ddpm_linear", "ddpm_cosine", "flow"])
def test_every_solver_takes_our_steps(path_name, pairs):
    """Times, factors and updates, in float64 on a made-up network."""
    module = open_module(pairs["modern"][2])
    shift = 2.5 if path_name == "flow" else 1.0
    path = get_path(path_name, shift=shift)
    theirs = module.NoisePath(path_name, shift)
    noise = torch.tensor([0.7, -1.3], dtype=torch.float64)

    def network(x, t):
        return 0.3 * x - t

    every = itertools.product(
        module.SOLVERS, ("eps", "x0", "v", "velocity"), (1, 2, 7), (0, 0.5)
    )
    for solver, prediction, steps, clip in every:
        for final in (True, False):
            start = samplers._start(path, prediction)
            times = solvers.time_grid(path, steps, solver, start)
            grid = theirs.grid(
                steps, theirs.start(prediction), module.SOLVERS[solver][1]
            )
            assert np.allclose(grid, times, rtol=0, atol=1e-12)
            rows = solvers.SOLVERS[solver].build(
                path, [solvers.point(path, t) for t in times], final
            )
            x = base = noise.numpy()
            previous = previous_eps = 0.0
            for row in rows:
                value = network(x, row.time)
                x0 = module.to_x0(value, x, row.alpha, row.sigma, prediction)
                x0 = np.clip(x0, -clip, clip) if clip else x0
                eps = (x - row.alpha * x0) / row.sigma
                x = row.base * base + row.x0 * x0 + row.eps * eps
                x = x + row.previous_x0 * previous
                x = x + row.previous_eps * previous_eps
                previous, previous_eps = x0, eps
                base = x if row.ends_step else base
            found = module.integrate(
                network,
                noise,
                theirs,
                prediction=prediction,
                solver=solver,
                steps=steps,
                lower_order_final=final,
                clip=clip,
            )
            assert np.allclose(found, x, rtol=1e-9, atol=1e-9), solver


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


def test_one_token_needs_no_queries(pairs):
    folder = pairs["lumos"][2]
    theirs = open_module(folder).Prior.from_pretrained(folder)
    x, times = torch.randn(1, 3, 8, 8), torch.tensor([100.0])
    tokens = torch.randn(1, 1, 16)
    with torch.no_grad():
        reference = theirs.predict(x, times, tokens)
        masked = torch.ones(1, 1, dtype=torch.bool)
        full = theirs.predict(x, times, tokens, mask=masked)
        assert relative_error(full, reference) <= LIMIT
        for block in theirs.dit.blocks:
            block.cross_attention.q.weight.fill_(float("nan"))
        assert torch.equal(theirs.predict(x, times, tokens), reference)


def test_masks_of_the_null_half(pairs):
    """A mask in the words of `sample` and as a tensor; null tokens."""
    _, theirs, _ = pairs["pixart"]
    tokens, others = conditions("pixart", pairs["pixart"][0])
    doors = {k: torch.from_numpy(v) for k, v in others.items()}
    noise, steps = nchw(normal((2, 8, 8, 3), 1)), {"steps": 1}

    def sampled(**options):
        given = torch.from_numpy(tokens)
        return theirs.sample(noise, given, **steps, **{**doors, **options})

    full = torch.ones_like(doors["mask"])
    own = theirs.conditioner.null.detach()
    caption = sampled(null_mask="caption")
    assert torch.equal(caption, sampled())  # the run's
    assert torch.equal(caption, sampled(null_mask=doors["mask"]))
    assert torch.equal(caption, sampled(null_tokens=own))
    assert not torch.allclose(caption, sampled(null_tokens=-own))
    assert not torch.allclose(caption, sampled(null_mask="full"))
    assert torch.equal(sampled(null_mask="full"), sampled(null_mask=full))
    with pytest.raises(ValueError, match="needs 5 null tokens"):
        sampled(null_tokens=own[:3])


def test_guided_classes(tiny, tmp_path):
    """The null class is the last one; no tokens, so no conditioner."""
    config = tiny(
        "model.block=dit",
        "model.classes=4",
        "conditioner.choice=none",
        "encoder.kind=none",
    )
    ours, theirs = exported(config, tmp_path / "folder")
    noise, labels = normal((2, 8, 8, 3), 1), np.array([1, 3])
    options = {"steps": 1, "guidance": 3.0}
    reference = ours.sample(noise, pooled=labels, **options)
    for pooled in (torch.from_numpy(labels), torch.eye(5)[labels]):
        found = theirs.sample(nchw(noise), pooled=pooled, **options)
        assert relative_error(nhwc(found), reference) <= LIMIT
    with pytest.raises(ValueError, match="prior's is none"):
        theirs.embed([pictures()[0]])
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "from class labels" in card
    assert "prior.sample(noise, pooled=labels)" in card


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
    with pytest.raises(ValueError, match="prior's is dinov2"):
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
    with pytest.raises(ValueError, match="lies in it"):
        open_module(empty).Prior.from_pretrained(empty)
    (empty / "config.json").write_text("{}")
    with pytest.raises(UserError, match="copy the folder again"):
        torch_folder.read_torch_folder(empty)
    with pytest.raises(UserError, match="cannot read"):
        torch_folder.read_torch_folder(tmp_path)
