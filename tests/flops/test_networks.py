"""Counts of traced networks: hand counts, publications, XLA's own count."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_prior.config import load_config
from i2i_prior.flops.cost import training_flops
from i2i_prior.flops.networks import networks, recomputed_macs
from i2i_prior.flops.trace import count_macs, total, trace
from i2i_prior.models.autoencoder import AUTOENCODERS, make_autoencoder
from i2i_prior.models.conditioner import PYRAMID, Conditioner, ConditionerConfig
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.encoder_families import FAMILIES
from i2i_prior.models.functional import make_functional
from i2i_prior.models.text_clip import ClipTextConfig, ClipTextEncoder
from i2i_prior.models.text_t5 import T5Config, T5Encoder
from i2i_prior.models.vit import Features, ViT, ViTConfig
from i2i_prior.tasks.network import parameter_shapes
from i2i_prior.tasks.resolve import resolve
from tests.conftest import ROOT

FROZEN = ("encoder.kind=frozen", "encoder.weights=random")


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def xla_macs(function, *shapes) -> float:
    """Half the FLOPs of XLA's cost analysis: a scan's body counts once."""
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"] / 2


def numbers(shapes) -> int:
    return sum(math.prod(shape.shape) for shape in shapes.values())


def below(shapes, prefix) -> int:
    """Numbers of the parameters with names of this prefix."""
    return numbers(
        {n: s for n, s in shapes.items() if (n + "/").startswith(prefix + "/")}
    )


def counted(build, call, *inputs):
    """Parameters and multiply-adds of call(module, *inputs)."""
    functional, _ = make_functional(build)
    shapes = functional.shapes()
    macs = count_macs(
        lambda p, *a: call(functional.merge(p), *a), shapes, *inputs
    )
    return numbers(shapes), macs


def dit_inputs(config: DiTConfig, tokens: int):
    """Shapes of x, timestep and conditions of a DiT, for one image."""
    side = config.input_size
    conditions = {}
    if config.cross_attention:
        conditions["tokens"] = array(1, tokens, config.width)
    if config.classes:
        conditions["pooled"] = array(1, dtype=jnp.int32)
    elif config.pooled_width:
        conditions["pooled"] = array(1, config.pooled_width)
    if config.concat_channels:
        conditions["concat"] = array(1, side, side, config.concat_channels)
    if config.size_conditions:
        conditions |= {"size": array(1, 2), "aspect": array(1, 1)}
    return array(1, side, side, config.channels), array(1), conditions


def count_dit(config: DiTConfig, tokens: int) -> tuple[int, int]:
    return counted(
        lambda rngs: DiT(config, rngs=rngs),
        lambda dit, x, t, conditions: dit(x, t, **conditions),
        *dit_inputs(config, tokens),
    )


def load(name):
    file, *overrides = name.split()
    return load_config(str(ROOT / f"configs/{file}.py"), overrides)


# Counted by hand: macs of "dit", "conditioner", "encoder" and "autoencoder",
# and what remat full, attention, hidden and dots recomputes.
BY_HAND = {
    "lumos_xl2": (
        (118_693_085_184, 2_211_840, 17_563_060_224, 136_361_082_880),
        (118_677_307_392, 116_563_378_176, 78_512_652_288, 2_113_929_216),
    ),
    "lumos_xxl2": (
        (474_757_988_352, 5_767_168, 17_563_060_224, 136_361_082_880),
        (474_728_103_936, 469_896_265_728, 315_277_443_072, 4_831_838_208),
    ),
    "quickstart": (
        (104_258_560, 737_280, 7_225_856),
        (103_157_760, 99_880_960, 64_491_520, 3_276_800),
    ),
    "tiny_imagenet16": (
        (9_244_672, 131_072, 921_728),
        (9_117_696, 8_462_336, 5_578_752, 655_360),
    ),
    "tiny_imagenet64": (
        (147_369_984, 983_040, 10_642_176),
        (146_030_592, 142_098_432, 91_766_784, 3_932_160),
    ),
    "tiny_latents": (
        (387_055_616, 1_572_864, 0),
        (385_744_896, 377_880_576, 242_614_272, 7_864_320),
    ),
    "lumos_xl2 conditioner.tokens_from=patches model.one_token=false": (
        (155_447_377_920, 433_520_640, 17_563_060_224, 136_361_082_880),
        (155_431_600_128, 151_699_193_856, 113_648_467_968, 3_732_406_272),
    ),
    "quickstart model.block=modern": (
        (104_258_560, 737_280, 7_225_856),
        (103_157_760, 99_880_960, 64_491_520, 3_276_800),
    ),
    "quickstart model.block=dit": (
        (103_296_000, 737_280, 7_225_856),
        (102_195_200, 98_918_400, 72_704_000, 3_276_800),
    ),
    "quickstart model.block=pixart model.qk_norm=true": (
        (102_784_000, 737_280, 7_225_856),
        (101_580_800, 98_304_000, 72_089_600, 3_276_800),
    ),
    "quickstart model.classes=10": (
        (104_258_560, 737_280, 7_225_856),
        (103_157_760, 99_880_960, 64_491_520, 3_276_800),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_configs_by_hand(name):
    config = load(name)
    made = networks(config)
    found = [
        made.by_name[network].whole.macs
        for network in ("dit", "conditioner", "encoder", "autoencoder")
        if network in made.by_name
    ]
    again = []
    for config.model.remat in ("full", "attention", "hidden", "dots"):
        again.append(recomputed_macs(config))
    assert (tuple(found), tuple(again)) == BY_HAND[name]


def test_parts_of_lumos_by_hand():
    parts = networks(load("lumos_xl2")).by_name["dit"].parts
    assert {name: part.macs for name, part in parts.items()} == {
        "patch_embed": 4_718_592,
        "time_embed": 1_622_016,
        "blocks/modulation": 222_953_472,
        "blocks/attention": 42_278_584_320,
        "blocks/cross_attention": 74_317_824,
        "blocks/mlp": 76_101_451_776,
        "final": 9_437_184,
    }
    whole = total(parts.values())
    assert whole.scores == 4_227_858_432
    assert whole.parameters == 819_792_032
    assert whole.frozen == 74_382_336


def test_lumos_xl2():
    """arXiv 2412.07767, counted on the official source: at 256 px with one
    token 137.6e9 multiply-adds, or 118.6e9 on the fast path."""
    _, generic = count_dit(DiTConfig(), 1)
    _, fast = count_dit(DiTConfig(one_token=True), 1)
    assert generic == pytest.approx(137.63e9, rel=0.005)
    assert fast == pytest.approx(118.60e9, rel=0.005)
    assert 1 - fast / generic == pytest.approx(0.138, abs=0.001)


# Of arXiv 2212.09748: table 4 at 256 pixels, GMACs, and M parameters.
DIT = {
    "S/2": ((12, 384, 6), 6.06, 33),
    "B/2": ((12, 768, 12), 23.01, 130),
    "L/2": ((24, 1024, 16), 80.71, 458),
    "XL/2": ((28, 1152, 16), 118.64, 675),
}


@pytest.mark.parametrize("name", DIT)
def test_published_sizes_of_dit(name):
    (depth, width, heads), giga, millions = DIT[name]
    config = DiTConfig(
        block="dit",
        depth=depth,
        width=width,
        heads=heads,
        cross_attention=False,
        classes=1000,
    )
    parameters, macs = count_dit(config, 0)
    assert macs == pytest.approx(giga * 1e9, rel=0.005)
    assert parameters == pytest.approx(millions * 1e6, rel=0.01)
    # How far the usual estimate of a language model is off.
    ratio = 6 * parameters * 256 / training_flops(macs)
    assert 1.35 < ratio < 1.47


def count_text(config, length):
    module = T5Encoder if isinstance(config, T5Config) else ClipTextEncoder
    return counted(
        lambda rngs: module(config, rngs=rngs),
        lambda encoder, ids: encoder(ids),
        array(1, length, dtype=jnp.int32),
    )


def test_text_encoders():
    """T5 v1.1 XXL's encoder and the text tower of CLIP ViT-L/14 as their
    checkpoints have them; multiply-adds by hand."""
    assert count_text(T5Config(), 120) == (4_762_310_656, 558_492_549_120)
    assert count_text(ClipTextConfig(projection=0), 77)[0] == 123_060_480
    assert count_text(ClipTextConfig(), 77) == (123_650_304, 6_649_841_664)
    relu = T5Config(20, 2, 12, 3, 5, 14, gated=False, activation="relu")
    layer = 7 * 12 * (4 * 15 + 2 * 14) + 2 * 7**2 * 15
    assert count_text(relu, 7)[1] == 2 * layer


# Kind -> parameters and multiply-adds of the encoder, then of the decoder, at
# 256 pixels, by hand. Stable Diffusion's checkpoint has 83.65 million.
AUTOENCODER = {
    "sd": (34_163_664, 136_361_082_880, 49_490_199, 311_093_641_216),
    "flux": (34_274_208, 136_474_263_552, 49_545_475, 311_150_247_936),
    "flux2": (34_425_856, 136_629_452_800, 49_620_259, 311_226_793_984),
    "taesd": (1_222_532, 15_290_597_376, 1_222_531, 17_668_767_744),
    "taef2": (1_338_528, 15_407_775_744, 1_338_499, 17_785_946_112),
}


@pytest.mark.parametrize("kind", AUTOENCODER)
def test_autoencoders(kind):
    shape = AUTOENCODERS[kind]

    def make(rngs):
        return make_autoencoder(shape, rngs=rngs)

    image, latent = array(1, 256, 256, 3), array(1, 32, 32, shape.channels)
    _, encoded = counted(make, lambda a, x: a.encode(x), image)
    _, decoded = counted(make, lambda a, z: a.decode(z), latent)
    shapes = make_functional(make)[0].shapes()
    encoder = below(shapes, "encoder") + below(shapes, "quant_conv")
    decoder = below(shapes, "decoder") + below(shapes, "post_quant_conv")
    assert (encoder, encoded, decoder, decoded) == AUTOENCODER[kind]
    if kind == "sd":
        assert numbers(shapes) == 83_653_863
    assert below(shapes, "statistics") == 8 * 32 * (kind == "flux2")


def test_pixels_cost_nothing():
    made = networks(load("quickstart"))
    assert set(made.by_name) == {"dit", "conditioner", "encoder"}


# Family -> parameters and multiply-adds of ViT-B/16 at 224 pixels, by hand.
# arXiv 2012.12877 table 5: 17.6e9 (17.58 without the classifier), 86 million.
ENCODER = {
    "dino": (85_798_656, 17_563_060_224),
    "dinov2": (85_817_088, 17_563_060_224),
    "clip": (86_192_640, 17_563_453_440),
    "siglip": (92_884_224, 17_708_292_096),
    "ijepa": (85_797_120, 17_470_881_792),
}


def count_vit(config, side):
    return counted(
        lambda rngs: ViT(config, rngs=rngs),
        lambda encoder, pixels: encoder(pixels),
        array(1, side, side, 3),
    )


def interpolation(config, side) -> int:
    """Multiply-adds of the interpolation of positions, once a batch."""
    functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
    equations = trace(
        lambda p, x: functional.merge(p)(x),
        functional.shapes(),
        array(1, side, side, 3),
    )
    return sum(e.macs for e in equations if "interpolate" in e.scope)


@pytest.mark.parametrize("family", ENCODER)
def test_image_encoders(family):
    config = ViTConfig(family=family, projection=512 if family == "clip" else 0)
    assert count_vit(config, 224) == ENCODER[family]


def test_a_giant_encoder_with_registers():
    giant = ViTConfig(
        family="dinov2",
        depth=40,
        width=1536,
        heads=24,
        patch=14,
        image_size=518,
        swiglu=True,
        mlp_width=4096,
        registers=4,
    )
    parameters, macs = count_vit(giant, 224)
    assert parameters == 1_136_485_376
    assert macs - interpolation(giant, 224) == 304_174_522_368


# Family -> parameters, multiply-adds at 16 pixels, and at 12 without the
# interpolation of positions, of two layers of odd widths, by hand.
SMALL_ENCODER = {
    "dino": (16_104, 281_184, 158_208),
    "dino_hf": (16_104, 281_184, 158_208),
    "dinov2": (9_824, 206_592, 123_936),
    "dinov2_hub": (16_200, 281_184, 158_208),
    "clip": (16_368, 281_424, 158_448),
    "openclip": (10_248, 183_264, 100_608),
    "siglip": (23_256, 289_152, 159_120),
    "siglip2": (23_256, 289_152, 159_120),
    "mae": (16_104, 281_184, 158_208),
    "ijepa": (16_056, 264_192, 142_560),
}
ODD = {
    "dinov2": {"registers": 3, "swiglu": True, "mlp_width": 20},
    "clip": {"projection": 10},
    "openclip": {"mlp_width": 36},
}


@pytest.mark.parametrize("family", SMALL_ENCODER)
def test_every_family_of_image_encoders(family):
    config = ViTConfig(
        family=family,
        depth=2,
        width=24,
        heads=3,
        patch=4,
        image_size=16,
        **ODD.get(family, {}),
    )
    parameters, macs = count_vit(config, 16)
    cropped = count_vit(config, 12)[1] - interpolation(config, 12)
    assert (parameters, macs, cropped) == SMALL_ENCODER[family]


def test_every_family_is_counted():
    assert set(SMALL_ENCODER) == set(FAMILIES)


# Kind -> parameters, multiply-adds of encoding and decoding 16 pixels, of
# three levels of odd widths, by hand.
SMALL_AUTOENCODER = {
    "sd": (42_791, 1_033_216, 2_358_016),
    "flux2": (54_275, 1_162_240, 2_406_400),
    "taesd": (17_351, 797_184, 935_424),
    "taef2": (22_563, 837_632, 975_872),
}


@pytest.mark.parametrize("kind", SMALL_AUTOENCODER)
def test_autoencoders_of_uneven_levels(kind):
    shape = AUTOENCODERS[kind]
    widths = (8, 8, 8) if shape.kind == "tiny" else (8, 16, 8)
    small = dataclasses.replace(
        shape, widths=widths, blocks=(1, 2, 1), groups=4
    )

    def make(rngs):
        return make_autoencoder(small, rngs=rngs)

    image, latent = array(1, 16, 16, 3), array(1, 4, 4, small.channels)
    parameters, encoded = counted(make, lambda a, x: a.encode(x), image)
    decoded = counted(make, lambda a, z: a.decode(z), latent)[1]
    assert (parameters, encoded, decoded) == SMALL_AUTOENCODER[kind]


# Parameters and multiply-adds of 7 tokens, by hand.
SMALL_TEXT = {
    "t5": (T5Config(20, 2, 12, 3, 5, 14), 2_844, 20_076),
    "t5_relu": (
        T5Config(20, 1, 12, 3, 5, 14, gated=False, activation="relu"),
        *(1_428, 8_862),
    ),
    "clip": (
        ClipTextConfig(20, 9, 2, 12, 3, 14, projection=10),
        *(2_560, 15_240),
    ),
    "clip_plain": (
        ClipTextConfig(20, 9, 1, 12, 3, 14, projection=0),
        *(1_406, 7_560),
    ),
}


@pytest.mark.parametrize("name", SMALL_TEXT)
def test_small_text_encoders(name):
    config, *numbers_by_hand = SMALL_TEXT[name]
    assert list(count_text(config, 7)) == numbers_by_hand


def test_positions_are_interpolated_once_a_batch(tiny):
    config = tiny("encoder.view_size=12", "conditioner.tokens_from=pyramid")
    shape = resolve(config).encoder
    _, macs = count_vit(shape, 12)
    once = interpolation(shape, 12)
    assert once > 0
    encoder = networks(config).by_name["encoder"]
    assert encoder.whole.macs == macs - once


@st.composite
def dits(draw) -> tuple[DiTConfig, int]:
    """Any DiT, small, and its condition tokens."""
    tokens = draw(st.sampled_from([0, 1, 5]))
    pooled = draw(st.sampled_from(["none", "classes", "vector"]))
    patch = draw(st.sampled_from([1, 2]))
    config = DiTConfig(
        block=draw(st.sampled_from(["lumos", "dit", "pixart", "modern"])),
        depth=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([48, 72])),
        heads=draw(st.sampled_from([2, 6])),
        patch=patch,
        input_size=4 * patch,
        channels=draw(st.sampled_from([3, 4])),
        learn_sigma=draw(st.booleans()),
        mlp_ratio=draw(st.sampled_from([4.0, 2.7])),
        cross_attention=tokens > 0,
        qk_norm=draw(st.booleans()),
        classes=10 * (pooled == "classes"),
        pooled_width=7 * (pooled == "vector"),
        size_conditions=draw(st.booleans()),
        concat_channels=draw(st.sampled_from([0, 2])),
        one_token=tokens == 1 and draw(st.booleans()),
    )
    return config, tokens


def by_hand(config: DiTConfig, m: int) -> int:
    """Multiply-adds of a DiT on 16 image and m condition tokens."""
    n, d, third = 16, config.width, config.width // 3
    patch = config.patch**2
    count = n * patch * (config.channels + config.concat_channels) * d
    count += 256 * d + d * d  # the timestep
    count += config.pooled_width and config.pooled_width * d + d * d
    if config.size_conditions:  # height, width, aspect ratio
        count += 3 * (256 * third + third**2)
    modern = config.block == "modern"
    modulations = 9 if modern and m else 6
    if config.block == "pixart":
        count += 6 * d * d  # once for all layers
        modulations = 0
    hidden = int(config.mlp_ratio * d)
    mlp = 2 * n * d * hidden
    if modern:
        mlp = 3 * n * d * 16 * round(config.mlp_ratio * d * 2 / 3 / 16)
    layer = modulations * d * d + 4 * n * d * d + 2 * n * n * d + mlp
    if m == 1 and config.one_token:
        layer += 2 * d * d
    elif m:
        layer += 2 * n * d * d + 2 * m * d * d + 2 * n * m * d
    count += config.depth * layer
    if config.block in ("dit", "modern"):
        count += 2 * d * d
    return count + n * d * patch * config.out_channels


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(dits())
def test_dit(drawn):
    config, tokens = drawn
    assert count_dit(config, tokens)[1] == by_hand(config, tokens)


def test_parts_hold_the_parameters_of_their_names(tiny):
    config = tiny("model.block=pixart", "model.qk_norm=true", *FROZEN)
    shapes = parameter_shapes(config)
    for name, network in networks(config).by_name.items():
        for part, found in network.parts.items():
            if part in ("tokens", "norms", "blocks/norms"):
                continue  # of several names
            assert found.parameters == below(shapes, f"{name}/{part}"), part
        assert network.whole.parameters == below(shapes, name)
        frozen = network.whole.frozen
        assert frozen == below(shapes, name) * (name == "encoder")


@pytest.mark.parametrize("choice", ["cls", "patches", "pyramid", "tokens"])
@pytest.mark.parametrize(
    ("expand", "null"), [(1, "random"), (3, "trained"), (1, "given")]
)
def test_conditioner(choice, expand, null):
    config = ConditionerConfig(
        embedding_width=8,
        width=12,
        tokens_from=choice,
        patches=16,
        length=6,
        expand=expand,
        null=null,
    )

    def call(conditioner, features):
        if choice == "tokens":
            return conditioner(features[1][:, :6])
        return conditioner(conditioner.choose(Features(*features)))

    _, macs = counted(
        lambda rngs: Conditioner(config, rngs=rngs),
        call,
        (array(1, 8), array(1, 16, 8)),
    )
    embeddings, tokens = config.embeddings, config.embeddings * expand
    wanted = tokens * (8 * 12 + 12 * 12)
    wanted += embeddings * 8 * expand * 8 * (expand > 1)
    pyramid = sum(s * s for s in PYRAMID) * 16 * 8 * (choice == "pyramid")
    assert macs == wanted + pyramid


# Wide enough that products drown what is not counted. A scan's body is counted
# once, so it is unrolled.
WIDE = DiTConfig(
    depth=2, width=768, heads=4, patch=2, input_size=16, scan_unroll=2
)


@pytest.mark.parametrize(
    ("block", "tokens", "options"),
    [
        ("lumos", 1, {"one_token": True, "concat_channels": 3}),
        ("dit", 120, {"classes": 10, "qk_norm": True}),
        ("pixart", 40, {"size_conditions": True}),
        ("modern", 256, {"pooled_width": 32}),
    ],
)
def test_dit_against_xla(block, tokens, options):
    """Forward and training; nothing is compiled or allocated."""
    config = dataclasses.replace(WIDE, block=block, **options)
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))

    x, t, conditions = dit_inputs(config, tokens)

    def forward(parameters, given, x, t, others):
        dit = functional.merge(parameters)
        return dit(x, t, given, **others).sum()

    # The conditioner wants the tokens' gradient.
    gradient = jax.value_and_grad(forward, argnums=(0, 1))
    given = conditions.pop("tokens")
    inputs = functional.shapes(), given, x, t, conditions
    _, count = count_dit(config, tokens)
    assert count == pytest.approx(xla_macs(forward, *inputs), rel=0.02)
    trained = 2 * xla_macs(gradient, *inputs)
    assert training_flops(count) == pytest.approx(trained, rel=0.02)


def test_vit_against_xla():
    # A scan body is counted once: one layer is all of it.
    config = ViTConfig(depth=1, width=1536, heads=4, patch=8, image_size=64)
    functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
    count = xla_macs(
        lambda parameters, x: functional.merge(parameters)(x).cls,
        functional.shapes(),
        array(1, 64, 64, 3),
    )
    assert count_vit(config, 64)[1] == pytest.approx(count, rel=0.02)


def test_autoencoder_against_xla():
    """XLA leaves out products with the padding: 1 % at this size."""
    shape = AUTOENCODERS["sd"]
    functional, _ = make_functional(
        lambda rngs: make_autoencoder(shape, rngs=rngs)
    )
    count = xla_macs(
        lambda parameters, x: functional.merge(parameters).encode(x),
        functional.shapes(),
        array(1, 256, 256, 3),
    )
    assert AUTOENCODER["sd"][1] == pytest.approx(count, rel=0.02)


def test_counts_are_kept_in_the_users_cache(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tiny("model.width=64", "model.depth=3")
    parts = networks(config).by_name["dit"].parts
    (file,) = tmp_path.rglob("*.json")
    stored = json.loads(file.read_text())
    assert 3 * stored["dit/blocks/mlp"][1] == parts["blocks/mlp"].macs
    # Another depth has the same trace, and so has what does not count.
    config = tiny("model.width=64", "model.depth=5", "optim.learning_rate=1")
    deep = networks(config).by_name["dit"].parts
    assert 5 * parts["blocks/mlp"].macs == 3 * deep["blocks/mlp"].macs
    assert deep["final"] == parts["final"]
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_counting_opens_no_device():
    text = (
        "import sys\nfrom jax._src import xla_bridge\n"
        "from i2i_prior.config import load_config\n"
        "from i2i_prior.flops.cost import run_cost\n"
        "run_cost(load_config(sys.argv[1], ['model.remat=full']))\n"
        "assert not xla_bridge._backends\n"
    )
    config = str(ROOT / "configs/tiny_imagenet16.py")
    subprocess.run([sys.executable, "-c", text, config], check=True)
