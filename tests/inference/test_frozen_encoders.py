"""Latents and embeddings that `i2i-prior prepare` makes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from i2i_prior.data.crops import center_box, center_crop
from i2i_prior.data.decode_image import decode
from i2i_prior.data.manifest import read_manifest
from i2i_prior.data.record import Record
from i2i_prior.errors import UserError
from i2i_prior.inference.encoder import load_encoder
from i2i_prior.inference.frozen_encoders import open_autoencoder, open_encoder
from i2i_prior.interop import encoders
from i2i_prior.interop.autoencoders import export, functional_of, load_files
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.interop.files.state_dicts import write_state_dict
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT, ViTConfig
from tests.data.fixtures_prepared import contents, examples, write_photos

SHARED = Path(__file__).parents[3] / "shared"
SIZE = 16
KL = AutoencoderConfig(widths=(32, 32), blocks=(1, 1))
TINY = AutoencoderConfig(
    kind="tiny",
    widths=(8, 8),
    blocks=(1, 1),
    groups=4,
    scale=1.0,
    quant_conv=False,
)
VIT = ViTConfig(depth=1, width=64, heads=1, patch=8, image_size=16)


def fresh(init):
    """Random parameters that are not so large that all saturates."""
    values = jax.device_get(init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return {
        name: (a + 0.1 * rng.standard_normal(a.shape)).astype("f4")
        for name, a in values.items()
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of three networks, by kind."""
    from i2i_prior.models.autoencoder import make_autoencoder

    folder = tmp_path_factory.mktemp("weights")
    files = {name: folder / f"{name}.safetensors" for name in ("sd", "taesd")}
    for config, file in zip((KL, TINY), files.values(), strict=True):
        _, init = make_functional(
            lambda rngs, config=config: make_autoencoder(config, rngs=rngs)
        )
        write_state_dict(file, export(fresh(init), config, "diffusers"))
    files["dino"] = folder / "dino.safetensors"
    _, init = make_functional(lambda rngs: ViT(VIT, rngs=rngs))
    write_state_dict(files["dino"], encoders.export(fresh(init), VIT, "dino"))
    return files


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven of 20 x 28, the fourth of them broken."""
    folder = write_photos(tmp_path_factory.mktemp("photos"), 11, 20, 28)
    (folder / "003.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def prepare(command, photos, tmp_path):
    def run(*options, out=tmp_path / "out"):
        ended = command(
            "prepare",
            f"--source=folder:{photos}",
            f"--out={out}",
            "--examples-per-shard=6",
            "--batch-size=1",
            "--max-broken=0.5",
            *options,
        )
        assert ended.code == 0, ended.err
        return examples(out)

    return run


def test_latents_and_embeddings(prepare, weights, photos, tmp_path):
    options = [
        f"--size={SIZE}",
        "--latents=sd",
        f"--latent-weights={weights['sd']}",
        "--flip",
        "--dtype=bfloat16",
        "--embeddings",
        f"one={weights['dino']}",
        f"all={weights['dino']}:patches",
    ]
    found = prepare(*options, "--workers=3")
    names = [f"{n:03}.jpg" for n in range(11) if n != 3]
    assert [example["name"] for example in found] == names
    fields = read_manifest(tmp_path / "out").layout.fields
    assert [field.name for field in fields] == [
        "latent",
        "embedding/one",
        "embedding/all",
        "size",
        "name",
        "json",
    ]
    config, parameters, _ = load_files(weights["sd"], "sd")
    module = functional_of(config).merge(parameters)
    encoder = load_encoder(weights["dino"])
    for example in (found[0], found[5], found[-1]):
        data = (photos / example["name"]).read_bytes()
        image = decode(Record("", data))
        crop = center_crop(image, SIZE)
        both = np.stack([crop, crop[:, ::-1]]).astype("f4") / 127.5 - 1
        mean, log_variance = module.gaussian(both)
        expected = np.concatenate([mean, log_variance], -1)
        assert example["latent"].dtype == ml_dtypes.bfloat16
        assert example["latent"].shape == (2, 8, 8, 8)
        np.testing.assert_allclose(
            example["latent"].astype("f4"), expected, rtol=0.02, atol=0.02
        )
        left, top, right, bottom = center_box(*image.shape[:2])
        pixels = encoder.preprocess([image[top:bottom, left:right]])
        features = encoder(np.concatenate([pixels, pixels[:, :, ::-1]]))
        for name, tokens in (
            ("one", features.cls[:, None]),
            ("all", features.patches),
        ):
            embedding = example[f"embedding/{name}"]
            assert embedding.shape == tokens.shape
            np.testing.assert_allclose(
                embedding.astype("f4"), tokens, rtol=0.02, atol=0.02
            )
    # Threads change nothing.
    prepare(*options, "--workers=1", out=tmp_path / "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")

    said = read_manifest(tmp_path / "out")
    assert (said.kind, said.dropped) == ("latents", {"is empty": 1})
    assert said.preprocessing == {
        "size": SIZE,
        "min_side": 0,
        "crop": "center",
        "flip": True,
        "dtype": "bfloat16",
        "batch_size": 1,
    }
    assert said.autoencoder == {
        "kind": "sd",
        "shape": KL.to_json(),
        "sha256": hash_of(weights["sd"]),
    }
    assert said.encoders["all"] == {
        "family": "dino",
        "sha256": hash_of(weights["dino"]),
        "choice": "patches",
        "view_size": 16,
        "pixels": "family",
    }


def test_without_a_gaussian_the_latent_is_itself(prepare, weights, photos):
    found = prepare(
        f"--size={SIZE}",
        "--latents=taesd",
        f"--latent-weights={weights['taesd']}",
    )
    config, parameters, _ = load_files(weights["taesd"], "taesd")
    model = functional_of(config).merge(parameters)
    for example in found[:2]:
        data = (photos / example["name"]).read_bytes()
        crop = center_crop(decode(Record("", data)), SIZE)
        expected = model.encode(crop[None].astype("f4") / 127.5 - 1)
        assert example["latent"].dtype == np.float16
        np.testing.assert_allclose(
            example["latent"], expected, rtol=2e-3, atol=2e-3
        )


def test_images_with_embeddings(prepare, weights, photos, tmp_path):
    found = prepare("--embeddings", f"dino={weights['dino']}")
    encoder = load_encoder(weights["dino"])
    data = (photos / "000.jpg").read_bytes()
    assert found[0]["image"] == data
    features = encoder(encoder.preprocess([decode(Record("", data))]))
    np.testing.assert_allclose(
        found[0]["embedding/dino"][0, 0], features.cls[0], rtol=0.01, atol=0.01
    )
    assert (
        json.loads((tmp_path / "out/manifest.json").read_text())["autoencoder"]
        is None
    )


def test_what_is_not_finite_is_dropped(prepare, weights, tmp_path):
    # So large that the mean does not fit into float16.
    _, parameters, _ = load_files(weights["sd"])
    large = {name: array * 1e3 for name, array in parameters.items()}
    file = tmp_path / "large.safetensors"
    write_state_dict(file, export(large, KL, "diffusers"))
    out = tmp_path / "out"
    with pytest.raises(AssertionError, match="latent that is not finite"):
        prepare("--size=16", "--latents=sd", f"--latent-weights={file}")
    assert not (out / "manifest.json").exists()


def test_refusals(weights):
    with pytest.raises(UserError, match="a multiple of 2, not 15"):
        open_autoencoder("sd", str(weights["sd"]), 15)
    with pytest.raises(UserError, match="pixels is unknown; choose one of sd"):
        open_autoencoder("pixels", str(weights["sd"]), 16)
    with pytest.raises(UserError, match="give the preset that fits"):
        open_autoencoder("flux", str(weights["sd"]), 16)
    with pytest.raises(UserError):
        open_encoder(f"dino={weights['sd']}")


def test_hashes_of_files_folders_and_pairs(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    a, b = (hash_of(tmp_path / name) for name in "ab")
    assert a.startswith("ca978112ca1bbdca")
    pair = hash_of(f"{tmp_path / 'a'},{tmp_path / 'b'}")
    whole = hash_of(tmp_path)
    assert len({a, b, pair, whole}) == 4
    assert hash_of(f"{tmp_path / 'b'},{tmp_path / 'a'}") != pair
    (tmp_path / "b").write_text("c")
    assert hash_of(tmp_path) != whole
    with pytest.raises(UserError, match="cannot read the weights"):
        hash_of(tmp_path / "none")


def test_taef2_on_real_photographs(command, tmp_path):
    data = SHARED / "data"
    archive = data / "tiny_imagenet64" / "val.tar"
    pair = [data / "weights" / f"taef2_{h}.pth" for h in ("encoder", "decoder")]
    if not all(file.is_file() for file in (archive, *pair)):
        pytest.skip("tiny_imagenet64 or TAEF2 is not in ../shared/data")
    few, photos = tmp_path / "few.tar", {}
    with tarfile.open(archive) as whole, tarfile.open(few, "w") as part:
        for _ in range(4):
            member = whole.next()
            part.addfile(member, whole.extractfile(member))
            photos[member.name] = whole.extractfile(member).read()
    ended = command(
        "prepare",
        f"--source=tar:{few}",
        f"--out={tmp_path / 'out'}",
        "--size=64",
        "--latents=flux2",
        f"--latent-weights={pair[0]},{pair[1]}",
        "--batch-size=1",
    )
    assert ended.code == 0, ended.err
    manifest = read_manifest(tmp_path / "out")
    assert manifest.autoencoder["kind"] == "taef2"
    config, parameters, _ = load_files("{},{}".format(*pair))
    model = functional_of(config).merge(parameters)
    for example in examples(tmp_path / "out"):
        latent = example["latent"]
        assert latent.shape == (1, 8, 8, 32)
        decoded = np.asarray(model.decode(latent.astype("f4")))[0]
        image = decode(Record("", photos[example["name"]])) / 127.5 - 1
        error = np.square((np.clip(decoded, -1, 1) - image) / 2).mean()
        assert -10 * np.log10(error) > 15


def test_a_run_trains_on_what_was_prepared(command, weights, photos, tmp_path):
    """Checks the commands in a row, and refusal of other weights."""
    latents = tmp_path / "latents"
    ended = command(
        *("prepare", "--source", f"folder:{photos}", "--out", latents),
        *("--size", SIZE, "--flip", "--max-broken", 0.2),
        *("--latents", "sd", "--latent-weights", weights["sd"]),
        *("--embeddings", f"image={weights['dino']}"),
    )
    assert ended.code == 0, ended.err

    def train(workdir, *overrides):
        config = {
            "data.source": f"arrayrecord:{latents}",
            "data.cached": "true",
            "data.image_size": SIZE,
            "autoencoder.kind": "sd",
            "autoencoder.shape": KL.to_json(),
            "autoencoder.weights": weights["sd"],
            "encoder.kind": "frozen",
            "encoder.pixels": "family",
            "encoder.weights": weights["dino"],
            "encoder.depth": VIT.depth,
            "encoder.width": VIT.width,
            "encoder.heads": VIT.heads,
            "encoder.patch": VIT.patch,
            "encoder.image_size": VIT.image_size,
            "encoder.view_size": view,
            "train.steps": 2,
        }
        tiny = Path(__file__).parents[1] / "tiny_config.py"
        return command(
            *("train", "--config", f"{tiny}:source=folder:{photos}"),
            *("--workdir", tmp_path / workdir),
            *(f"--config.{name}={value}" for name, value in config.items()),
            *overrides,
        )

    view = read_manifest(latents).encoders["image"]["view_size"]
    ended = train("run")
    assert ended.code == 0, ended.err
    assert f"10 images of arrayrecord:{latents}" in ended.err
    for override, said in (
        (f"autoencoder.weights={weights['dino']}", "autoencoder.weights of"),
        (f"encoder.weights={weights['sd']}", "encoder.weights of SHA-256"),
        ("encoder.view_size=8", f"a view of {view}, but the config wants 8"),
        ("encoder.pixels=symmetric", "encoder.pixels family, but the config"),
    ):
        ended = train("other", f"--config.{override}")
        assert ended.code == 1
        assert said in ended.err
        assert not (tmp_path / "other").exists()
