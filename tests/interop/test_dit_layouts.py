"""Published diffusion transformers: loaded, the same numbers, written back.

Every weight is random, the zero-initialised ones too. Official layouts run
against plain PyTorch restatements, PixArt against diffusers' own class.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from i2i_prior import Prior  # noqa: E402
from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.interop.export import export_file, tensors  # noqa: E402
from i2i_prior.interop.files.state_dicts import read_state_dict  # noqa: E402
from tests.peers.torch_lumos import TorchLumos  # noqa: E402
from tests.peers.torch_official import TorchDiT, TorchLumosMultiScale  # noqa: E402

DEPTH, WIDTH, HEADS, SIZE = 2, 48, 4, 8
LIMIT = 1e-4  # of the largest value of the reference


def randomised(module):
    """Every parameter and buffer but the position table is drawn anew."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, array in module.state_dict().items():
            if "pos_embed" in name and array.ndim == 3:
                continue
            fan_in = array[0].numel() if array.ndim > 1 else 4
            noise = torch.randn(array.shape, generator=generator)
            array.copy_(noise / fan_in**0.5)
    return module.eval()


def random(*shape, seed=0):
    numbers = np.random.default_rng(seed).standard_normal(shape)
    return numbers.astype("f4")


def error(ours, reference) -> float:
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def nchw(array):
    return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def lumos(tokens: int, width: int = 24):
    return randomised(
        TorchLumos(DEPTH, WIDTH, HEADS, 2, SIZE, 4, width, tokens)
    )


def dit(**options):
    return randomised(TorchDiT(DEPTH, WIDTH, HEADS, SIZE, 10, **options))


@pytest.fixture(scope="module")
def pixart():
    """diffusers' own class, multi-scale conditions on."""
    return randomised(
        diffusers.PixArtTransformer2DModel(
            num_attention_heads=HEADS,
            attention_head_dim=WIDTH // HEADS,
            in_channels=4,
            out_channels=8,
            num_layers=DEPTH,
            cross_attention_dim=WIDTH,
            caption_channels=24,
            sample_size=SIZE,
            patch_size=2,
            use_additional_conditions=True,
        )
    )


def official_pixart(state: dict) -> dict:
    """diffusers' names -> the official ones (24 captions of 5 tokens)."""
    names = {
        "pos_embed.proj": "x_embedder.proj",
        "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "adaln_single.emb.resolution_embedder.linear_1": "csize_embedder.mlp.0",
        "adaln_single.emb.resolution_embedder.linear_2": "csize_embedder.mlp.2",
        "adaln_single.emb.aspect_ratio_embedder.linear_1": "ar_embedder.mlp.0",
        "adaln_single.emb.aspect_ratio_embedder.linear_2": "ar_embedder.mlp.2",
        "adaln_single.linear": "t_block.1",
        "caption_projection.linear_1": "y_embedder.y_proj.fc1",
        "caption_projection.linear_2": "y_embedder.y_proj.fc2",
        "proj_out": "final_layer.linear",
    }
    out = {"final_layer.scale_shift_table": state["scale_shift_table"]}
    for here, there in names.items():
        for part in ("weight", "bias"):
            out[f"{there}.{part}"] = state[f"{here}.{part}"]
    for i in range(DEPTH):
        block, new = f"transformer_blocks.{i}", f"blocks.{i}"
        out[f"{new}.scale_shift_table"] = state[f"{block}.scale_shift_table"]
        for part in ("weight", "bias"):
            for here, there in {
                "attn1.to_out.0": "attn.proj",
                "attn2.to_q": "cross_attn.q_linear",
                "attn2.to_out.0": "cross_attn.proj",
                "ff.net.0.proj": "mlp.fc1",
                "ff.net.2": "mlp.fc2",
            }.items():
                out[f"{new}.{there}.{part}"] = state[f"{block}.{here}.{part}"]
            for there, fused in (
                ("attn.qkv", "attn1.to_q attn1.to_k attn1.to_v"),
                ("cross_attn.kv_linear", "attn2.to_k attn2.to_v"),
            ):
                out[f"{new}.{there}.{part}"] = torch.cat(
                    [state[f"{block}.{n}.{part}"] for n in fused.split()]
                )
    out["y_embedder.y_embedding"] = torch.from_numpy(random(5, 24, seed=9))
    return out


def assert_round_trip(prior, state: dict, but: str = "(none)") -> None:
    """Written under the layout's names it is the same to the last bit."""
    written = {
        key: tensor.read()
        for key, tensor in tensors(prior.parameters, prior.config, prior.layout)
    }
    expected = {k: v for k, v in state.items() if but not in k}
    assert written.keys() == expected.keys()
    for key, value in expected.items():
        assert np.array_equal(written[key], value.numpy()), key


def test_lumos(tmp_path):
    model = lumos(1)
    file = tmp_path / "lumos.pth"
    torch.save({"state_dict": model.state_dict()}, file)
    prior = Prior.load(file, heads=HEADS)
    assert prior.layout == "lumos"
    x, time = random(2, SIZE, SIZE, 4), np.float32([3.5, 999])
    tokens = random(2, 1, 24, seed=1)
    out = prior.predict(x, time, tokens=tokens)
    given = nchw(x), torch.from_numpy(time), torch.from_numpy(tokens)
    assert error(out, nhwc(model(*given))) <= LIMIT
    assert_round_trip(prior, model.state_dict())


def test_lumos_text_to_image(tmp_path):
    model = lumos(6)
    file = tmp_path / "lumos.safetensors"
    from safetensors.torch import save_file

    save_file({f"module.{k}": v for k, v in model.state_dict().items()}, file)
    prior = Prior.load(file, heads=HEADS)
    x, time = random(2, SIZE, 12, 4), np.float32([3.5, 999])
    tokens = random(2, 6, 24, seed=1)
    mask = np.arange(6) < np.array([[2], [6]])
    out = prior.predict(x, time, tokens=tokens, mask=mask)
    given = nchw(x), torch.from_numpy(time), torch.from_numpy(tokens)
    wanted = model(*given, torch.from_numpy(mask))
    assert error(out, nhwc(wanted)) <= LIMIT
    assert prior.config.sample.null_mask == "caption"
    assert_round_trip(prior, model.state_dict())


def test_lumos_multi_scale(tmp_path):
    model = randomised(
        TorchLumosMultiScale(
            DEPTH, WIDTH, HEADS, 2, SIZE, 4, 24, 6, base=16, scale=2.0
        )
    )
    file = tmp_path / "lumos.pth"
    torch.save(model.state_dict(), file)
    prior = Prior.load(file, heads=HEADS, base_size=16, position_scale=2.0)
    x, time = random(2, 6, 12, 4), np.float32([3.5, 999])
    tokens = random(2, 6, 24, seed=1)
    mask = np.arange(6) < np.array([[2], [6]])
    size, aspect = np.float32([[48, 96]] * 2), np.float32([[0.5]] * 2)
    out = prior.predict(
        x, time, tokens=tokens, mask=mask, size=size, aspect=aspect
    )
    given = [torch.from_numpy(a) for a in (time, tokens, mask, size, aspect)]
    assert error(out, nhwc(model(nchw(x), *given))) <= LIMIT
    assert_round_trip(prior, model.state_dict())
    with pytest.raises(UserError, match="takes size condition"):
        prior.predict(x, time, tokens=tokens, mask=mask)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("dit", {}),
        ("sit", {"qk_norm": True}),
        ("repa", {"sigma": False, "projector": 16}),
    ],
)
def test_classes(layout, options, tmp_path):
    model = dit(**options)
    file = tmp_path / "model.pt"
    # As the official training code saves, arguments and all.
    import argparse

    torch.save(
        {
            "model": {k: v + 1 for k, v in model.state_dict().items()},
            "ema": model.state_dict(),
            "opt": {"state": {}},
            "args": argparse.Namespace(model="XL/2"),
        },
        file,
    )
    prior = Prior.load(
        file, heads=HEADS, layout="sit" if layout == "sit" else None
    )
    assert prior.layout == layout
    assert any("ema" in note for note in prior.notes)
    dropped = any("projectors were dropped" in note for note in prior.notes)
    assert dropped == (layout == "repa")
    x, labels = random(2, SIZE, SIZE, 4), np.int32([3, 10])
    time = np.float32([3, 999] if layout == "dit" else [0.25, 0.75])
    out = prior.predict(x, time, pooled=labels)
    given = torch.from_numpy(time), torch.from_numpy(labels)
    assert error(out, nhwc(model(nchw(x), *given))) <= LIMIT
    weights = np.eye(11, dtype="f4")[labels]
    again = prior.predict(x, time, pooled=weights)
    np.testing.assert_allclose(again, out, 1e-5, 1e-6)
    assert_round_trip(prior, model.state_dict(), but="projectors")


def test_sit_samples_from_noise_to_data(tmp_path):
    """Euler on SiT's own clock: x += v dt from noise at 0 to data at 1."""
    model = dit()
    file = tmp_path / "model.pt"
    torch.save(model.state_dict(), file)
    prior = Prior.load(file, heads=HEADS, layout="sit")
    noise, labels = random(2, SIZE, SIZE, 4), np.int32([3, 7])
    found = prior.sample(
        noise, pooled=labels, steps=2, guidance=3.0, solver="euler"
    )
    x = nchw(noise)
    null = torch.full((2,), 10)
    for time in (0.0, 0.5):
        t = torch.full((2,), time)
        v = model(x, t, torch.from_numpy(labels))[:, :4]
        without = model(x, t, null)[:, :4]
        x = x + 0.5 * (without + 3.0 * (v - without))
    assert error(found, nhwc(x)) <= LIMIT


def test_pixart(pixart, tmp_path):
    pixart.save_pretrained(tmp_path / "folder")
    theirs = Prior.load(tmp_path / "folder")
    assert theirs.layout == "pixart_diffusers"
    assert theirs.config.model.heads == HEADS
    state = pixart.state_dict()
    official = tmp_path / "pixart.pth"
    renamed = official_pixart(state)
    torch.save({"state_dict": renamed}, official)
    ours = Prior.load(official, heads=HEADS, base_size=SIZE // 2)
    assert ours.layout == "pixart"
    x, time = random(2, 8, 12, 4), np.float32([3.5, 999])
    tokens = random(2, 5, 24, seed=1)
    mask = np.arange(5) < np.array([[2], [5]])
    size, aspect = np.float32([[64, 96]] * 2), np.float32([[0.5]] * 2)
    with torch.no_grad():
        wanted = pixart(
            nchw(x),
            torch.from_numpy(tokens),
            torch.from_numpy(time),
            {
                "resolution": torch.from_numpy(size),
                "aspect_ratio": torch.from_numpy(aspect),
            },
            encoder_attention_mask=torch.from_numpy(mask),
        ).sample
    for prior in (theirs, ours):
        out = prior.predict(
            x, time, tokens=tokens, mask=mask, size=size, aspect=aspect
        )
        assert error(out, nhwc(wanted)) <= LIMIT
    assert_round_trip(
        theirs, {k: v for k, v in state.items() if k != "pos_embed.pos_embed"}
    )
    written = {
        key: tensor.read()
        for key, tensor in tensors(ours.parameters, ours.config, "pixart")
    }
    assert written.keys() == renamed.keys() | {"pos_embed"}
    for key, value in renamed.items():
        assert np.array_equal(written[key], value.numpy()), key
    with pytest.raises(UserError, match="hold no null tokens"):
        theirs.sample(x, tokens=tokens, mask=mask, size=size, aspect=aspect)


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [("float32", ".pth"), ("bfloat16", ".safetensors"), ("float16", ".pt")],
)
def test_files_of_every_dtype_load_strictly(dtype, suffix, tmp_path):
    """The official class takes what is written, missing and extra nothing."""
    model = lumos(1)
    torch.save(model.state_dict(), tmp_path / "in.pth")
    prior = Prior.load(tmp_path / "in.pth", heads=HEADS)
    out = tmp_path / f"out{suffix}"
    size = export_file(
        out, prior.parameters, prior.config, "lumos", dtype=dtype
    )
    assert size == out.stat().st_size
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(out)
    else:
        state = torch.load(out, weights_only=True)
    assert {str(v.dtype) for v in state.values()} == {f"torch.{dtype}"}
    lumos(1).load_state_dict(state, strict=True)
    kind = getattr(torch, dtype)
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value.to(kind)), key
    back = Prior.load(out, heads=HEADS)
    again = tmp_path / f"again{suffix}"
    export_file(again, back.parameters, back.config, "lumos", dtype=dtype)
    first, second = read_state_dict(out), read_state_dict(again)
    for key in first:
        assert np.array_equal(first[key], second[key]), key


def test_inputs_that_do_not_fit(tmp_path):
    """One sentence each, before anything is compiled."""
    torch.save(dit().state_dict(), tmp_path / "dit.pt")
    torch.save(lumos(6).state_dict(), tmp_path / "text.pt")
    classes = Prior.load(tmp_path / "dit.pt", heads=HEADS)
    text = Prior.load(tmp_path / "text.pt", heads=HEADS)
    x, time = random(2, SIZE, SIZE, 4), np.float32([1, 2])
    tokens, labels = random(2, 6, 24), np.int32([1, 2])

    def said(prior, x=x, time=time, **conditions):
        with pytest.raises(UserError) as error:
            prior.predict(x, time, **conditions)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "channels last" in said(text, x.transpose(0, 3, 1, 2), tokens=tokens)
    assert "multiples of 2" in said(text, x[:, 1:], tokens=tokens)
    assert "timestep is (2,)" in said(text, time=time[:1], tokens=tokens)
    assert "tokens are (2, M, 24)" in said(text, tokens=tokens[:1])
    assert "takes tokens condition" in said(text)
    mask = np.ones((2, 7), bool)
    assert "mask is (2, 6)" in said(text, tokens=tokens, mask=mask)
    assert "takes no pooled" in said(text, tokens=tokens, pooled=labels)
    assert "takes no tokens" in said(classes, tokens=tokens, pooled=labels)
    assert "1..11 are not all in 0..10" in said(
        classes, pooled=np.int32([1, 11])
    )
    assert "labels are whole numbers" in said(
        classes, pooled=np.float32([1, 2])
    )
    for options, reason in (
        ({"layout": "flux"}, "layout 'flux' is unknown"),
        ({"heads": -4}, "heads is -4"),
        ({"heads": HEADS, "position_scale": 0}, "position_scale is 0"),
    ):
        with pytest.raises(UserError, match=reason):
            Prior.load(tmp_path / "text.pt", **options)
    with pytest.raises(UserError, match="guidance is nan"):
        text.sample(x, tokens=tokens, guidance=float("nan"))


def test_xl_sizes():
    """XL/2: names, shapes and counts, from shapes alone."""
    from i2i_prior.interop.layouts.conversion import expected_shapes
    from i2i_prior.interop.layouts.dit import dit_rules
    from i2i_prior.interop.layouts.dit_detection import implied_config
    from i2i_prior.tasks.network import parameter_shapes

    def counted(model, layout, **config):
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}

        class State:
            path, wrapper = "memory", ""

            def __getitem__(self, key):
                return dict(model.state_dict())[key].numpy()

        State.shapes, State.config = shapes, config
        found = implied_config(State(), layout)
        ours = parameter_shapes(found)
        expected = expected_shapes(dit_rules(found, layout, ours), ours)
        missing = shapes.keys() - expected.keys()
        assert missing <= {"pos_embed", "pos_embed.pos_embed"}
        assert expected == {k: shapes[k] for k in expected}
        buffers = {"y_embedder.y_embedding"}
        total = sum(
            int(np.prod(shape))
            for key, shape in expected.items()
            if key not in buffers
        )
        return len(shapes), total

    # A real position table, and no memory for the rest.
    def bare(make):
        with torch.device("meta"):
            model = make()
        if hasattr(model, "base"):
            from tests.peers.torch_lumos import sincos_table

            model.pos_embed = sincos_table(1152, 16, 16, 16)
        return model

    assert counted(bare(TorchLumos), "lumos") == (463, 822_006_176)
    multi = counted(
        bare(lambda: TorchLumosMultiScale(base=64, scale=2.0)), "lumos"
    )
    # T2I multi-scale reads 4096 channels; here it is built on 768.
    assert multi == (471, 826_333_088 - 1152 * (4096 - 768))
    diffusers_model = bare(
        lambda: diffusers.PixArtTransformer2DModel(
            sample_size=32, caption_channels=4096
        )
    )
    found = counted(
        diffusers_model,
        "pixart_diffusers",
        num_attention_heads=16,
        sample_size=32,
    )
    assert found == (603, 610_856_096)
