"""Autoencoder weights in their published layouts, there and back."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop.autoencoders import (
    export,
    functional_of,
    load,
    load_files,
)
from i2i_prior.interop.files.state_dicts import (
    StateDict,
    read_state_dict,
    write_state_dict,
)
from i2i_prior.interop.layouts import conversion
from i2i_prior.interop.layouts.autoencoder import KL_LAYOUTS, TINY_LAYOUTS
from i2i_prior.interop.layouts.autoencoder_detection import (
    complete,
    detect,
    diffusers_config,
    infer,
)
from i2i_prior.models.autoencoder import AUTOENCODERS
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from tests.interop.fixtures_autoencoders import (
    exported,
    random_parameters,
    same,
)

KL = AutoencoderConfig(
    channels=3,
    widths=(8, 16, 16),
    blocks=(1, 1, 1),
    groups=4,
    scale=0.7,
    shift=0.2,
)
FLUX2 = dataclasses.replace(
    KL, decoder_widths=(4, 8, 12), scale=1.0, shift=0.0, batch_norm=1e-3
)
TINY = AutoencoderConfig(
    kind="tiny",
    channels=5,
    widths=(8, 8, 8),
    blocks=(1, 2, 3),
    groups=4,
    scale=1.0,
    quant_conv=False,
)
POOLED = dataclasses.replace(TINY, pooled=True)
# What config.json would say: shapes do not tell it.
KNOWN = {"scaling_factor": 0.7, "shift_factor": 0.2, "norm_num_groups": 4}
KNOWN_FLUX2 = {"norm_num_groups": 4, "batch_norm_eps": 1e-3}


CASES = [
    *((KL, KNOWN, layout) for layout in KL_LAYOUTS.values()),
    *((FLUX2, KNOWN_FLUX2, layout) for layout in KL_LAYOUTS.values()),
    # Attention as 1x1 convolutions under diffusers' old names, and the
    # other way round.
    *(
        (KL, KNOWN, dataclasses.replace(layout, square=not layout.square))
        for layout in KL_LAYOUTS.values()
    ),
    (TINY, {}, TINY_LAYOUTS["diffusers"]),
    (TINY, {}, TINY_LAYOUTS["taesd"]),
    (POOLED, {}, TINY_LAYOUTS["diffusers"]),
    (POOLED, {}, TINY_LAYOUTS["taesd"]),
]


@pytest.mark.parametrize(
    ("config", "known", "layout"), CASES, ids=[c[2].name for c in CASES]
)
def test_there_and_back_is_exact(config, known, layout):
    parameters = random_parameters(config)
    arrays = exported(config, layout, parameters)
    state = StateDict.from_arrays(arrays, config=known)
    assert detect(state.shapes) == layout
    loaded_config, loaded, notes = load(state)
    assert (loaded_config, notes) == (config, [])
    assert same(loaded, parameters)
    assert same(exported(loaded_config, layout, loaded), arrays)


def meta_model(written):
    """A diffusers model of these fields without its numbers."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    fields = dict(written)
    with torch.device("meta"):
        return getattr(diffusers, fields.pop("_class_name"))(**fields)


ENTRIES = {
    "sd": 248,
    "sd3": 244,
    "flux": 244,
    "flux2": 251,  # a counter among them
    "taesd": 134,
    "taef1": 134,
}


@pytest.mark.parametrize("name", ENTRIES)
def test_presets_have_the_entries_of_diffusers(name):
    preset = AUTOENCODERS[name]
    state = meta_model(diffusers_config(preset)).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert len(shapes) == ENTRIES[name]
    layout = detect(shapes)
    found, _ = complete(infer(shapes, layout), {}, name, "there")
    assert found == preset
    structs = functional_of(preset).shapes()
    rules = layout.rules(preset, structs)
    expected = conversion.expected_shapes(rules, structs)
    shapes.pop("bn.num_batches_tracked", None)
    assert expected == shapes
    assert len(expected) == len(structs)


@pytest.mark.parametrize("layout", ["ldm", "ldm-checkpoint", "ldm-vae"])
def test_diffusers_converts_our_latent_diffusion_files(layout):
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    torch = pytest.importorskip("torch")
    parameters = random_parameters(KL)
    state = {
        key: torch.from_numpy(array)
        for key, array in exported(KL, layout, parameters).items()
    }
    converted = convert_ldm_vae_checkpoint(state, diffusers_config(KL))
    assert same(
        {key: value.numpy() for key, value in converted.items()},
        exported(KL, "diffusers", parameters),
    )


EACH = dataclasses.replace(KL, scale=(2.0, 0.5, 4.0), shift=(1.0, 0.0, 2.0))


@pytest.mark.parametrize("config", [KL, EACH, FLUX2, TINY])
def test_diffusers_opens_what_we_write(config, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    written = diffusers_config(config)
    parameters = random_parameters(config)
    tensors = export(parameters, config, "diffusers")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    write_state_dict(file, tensors, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(written))
    kind = getattr(diffusers, written["_class_name"])
    model, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    assert same(state, exported(config, "diffusers", parameters))
    found, loaded, notes = load(read_state_dict(tmp_path))
    assert (found, notes) == (config, [])
    assert same(loaded, parameters)


def test_a_whole_checkpoint_gives_its_autoencoder():
    arrays = exported(KL, "ldm-checkpoint")
    others = {
        "model.diffusion_model.out.2.weight": np.zeros((4, 4), "f4"),
        "cond_stage_model.logit_scale": np.zeros((), "f4"),
        "first_stage_model.loss.logvar": np.zeros((), "f4"),
    }
    state = StateDict.from_arrays({**others, **arrays}, config=KNOWN)
    assert load(state)[0] == KL


def test_what_is_assumed_is_said():
    config = dataclasses.replace(KL, channels=4, groups=8)
    arrays = exported(config, "diffusers")
    bare = StateDict.from_arrays(arrays, {"norm_num_groups": 8}, "vae.bin")
    found, _, notes = load(bare)
    assert (found.scale, found.shift) == (0.18215, 0.0)
    assert len(notes) == 1
    assert "vae.bin does not contain" in notes[0]
    assert 'preset="sdxl"' in notes[0]
    found, _, notes = load(bare, preset="sdxl")
    assert (found.scale, notes) == (0.13025, [])
    told = StateDict.from_arrays(arrays, {**KNOWN, "norm_num_groups": 8})
    found, _, notes = load(told, preset="sdxl")
    assert (found.scale, found.shift) == (0.7, 0.2)
    assert "not from the preset sdxl" in notes[0]


@pytest.mark.parametrize(
    ("preset", "known", "message"),
    [
        ("sd", {}, "kl autoencoder of 3 channels, the preset sd"),
        ("vae", {}, "no autoencoder preset 'vae'"),
        ("pixels", {}, "use one of sd, sdxl"),
        (None, {"norm_num_groups": 7}, "7 groups do not divide"),
        (None, {**KNOWN, "scaling_factor": "1"}, "scale is '1'"),
        (
            None,
            {**KNOWN, "latents_mean": [0, 1, 2], "latents_std": ["a"]},
            "are not numbers",
        ),
        (
            None,
            {**KNOWN, "latents_mean": [0.0], "latents_std": [1.0]},
            "1 numbers for 3 channels",
        ),
    ],
)
def test_contradictions_are_refused(preset, known, message):
    state = StateDict.from_arrays(exported(KL, "diffusers"), {**KNOWN, **known})
    with pytest.raises(UserError, match=re.escape(message)):
        load(state, preset=preset)


def test_damaged_files_are_refused():
    arrays = exported(KL, "diffusers")
    key = "decoder.mid_block.attentions.0.to_v.weight"
    arrays[key] = arrays.pop(key)[:, 1:]
    arrays["decoder.extra"] = arrays.pop("decoder.conv_out.bias")
    with pytest.raises(UserError) as caught:
        load(StateDict.from_arrays(arrays, KNOWN, "vae.pth"))
    said = str(caught.value)
    assert "1 missing (decoder.conv_out.bias)" in said
    assert "1 unexpected (decoder.extra)" in said
    assert "to_v.weight (16, 15), not (16, 16)" in said
    with pytest.raises(UserError, match="no known autoencoder"):
        load(StateDict.from_arrays({"a.weight": np.zeros((2, 2), "f4")}))


def test_unknown_layouts_are_refused():
    with pytest.raises(UserError, match="use one of diffusers, taesd"):
        exported(TINY, "ldm")
    with pytest.raises(UserError, match="no autoencoder class of this shape"):
        diffusers_config(POOLED)


def test_pairs_of_files(tmp_path):
    parameters = random_parameters(POOLED)
    files = {}
    for half in ("encoder", "decoder"):
        files[half] = tmp_path / f"{half}.safetensors"
        tensors = export(parameters, POOLED, f"taesd-{half}")
        write_state_dict(files[half], tensors)
    config, loaded, notes = load_files("{encoder},{decoder}".format(**files))
    assert (config, notes) == (POOLED, [])
    assert same(loaded, parameters)
    with pytest.raises(UserError, match=r"not the encoder .* but taesd-dec"):
        load_files("{decoder},{encoder}".format(**files))
    for half, file in files.items():
        with pytest.raises(UserError, match=f"one half .*taesd-{half}"):
            load_files(file)
