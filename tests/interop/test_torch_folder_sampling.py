"""Results of the PyTorch folder against the JAX prior, float32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402

from i2i_prior.diffusion import samplers, solvers  # noqa: E402
from i2i_prior.diffusion.paths import get_path  # noqa: E402
from i2i_prior.interop import torch_folder  # noqa: E402
from i2i_prior.interop.layouts import conversion  # noqa: E402
from i2i_prior.models.dit import DiT, DiTConfig  # noqa: E402
from i2i_prior.models.functional import make_functional  # noqa: E402
from tests.interop.fixtures_torch_folder import (  # noqa: E402
    LIMIT,
    RUNS,
    SAMPLE_LIMIT,
    conditions,
    exported,
    nchw,
    nhwc,
    normal,
    open_module,
    pictures,
    randomised,
    relative_error,
)


@pytest.mark.parametrize("name", RUNS)
def test_samples_agree(name, pairs):
    ours, theirs, _ = pairs[name]
    tokens, others = conditions(name, ours)
    if name != "pixart":
        side = ours.config.encoder.image_size
        found = theirs.embed(list(pictures(side)))
        assert relative_error(found, tokens) <= LIMIT
    noise = normal((2, 8, 8, 3), 1)
    options = {"steps": 8, "guidance": 4.5}
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
        **{**vars(config), "depth": 2, "width": 32, "heads": 4, "input_size": 8}
    )
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))
    parameters = randomised(functional.shapes(), 4)
    x, times = normal((2, 8, 8, 4), 11), np.float32([3.0, 640.0])
    reference = jax.jit(lambda p, **d: functional.merge(p)(x, times, **d))(
        parameters, **doors
    )
    theirs = open_module(pairs["lumos"][2]).DiT(vars(config))
    named = {f"dit/{key}": value for key, value in parameters.items()}
    written = conversion.save(named, torch_folder.torch_rules(named))
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
        with pytest.raises(ValueError, match="needs the condition pooled"):
            theirs(
                nchw(x), torch.from_numpy(times), **{**inputs, "pooled": None}
            )


@pytest.mark.parametrize("convention", ["sit", "repa"])
def test_conventions_of_time_and_sign(convention, pairs, tiny, tmp_path):
    config = tiny(
        *RUNS["modern"],
        f"diffusion.time_convention={convention}",
        "model.depth=1",
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
        "conditioner.tokens_from=none",
        "encoder.kind=none",
    )
    ours, theirs = exported(config, tmp_path / "folder")
    noise, labels = normal((2, 8, 8, 3), 1), np.array([1, 3])
    options = {"steps": 1, "guidance": 3.0}
    reference = ours.sample(noise, pooled=labels, **options)
    for pooled in (torch.from_numpy(labels), torch.eye(5)[labels]):
        found = theirs.sample(nchw(noise), pooled=pooled, **options)
        assert relative_error(nhwc(found), reference) <= LIMIT
    with pytest.raises(ValueError, match="encoder is none"):
        theirs.embed([pictures()[0]])
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "from class labels" in card
    assert "prior.sample(noise, pooled=labels)" in card
