"""Lumos' released inference, reproduced from its checkpoints.

The peer is a PyTorch pipeline: a restated DiT under diffusers' DPM-Solver++,
transformers' ViT as DINO, diffusers' autoencoder.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from i2i_prior import Prior  # noqa: E402
from i2i_prior.errors import UserError  # noqa: E402
from tests.interop.test_dit_layouts import (  # noqa: E402
    HEADS,
    error,
    lumos,
    nchw,
    nhwc,
    random,
    randomised,
)

STEPS, GUIDANCE = 20, 4.5
LIMIT = 1e-3


def official_sample(predict, noise, lower_order_final: bool):
    """DPM-Solver++(2M), time-uniform from 1 to 1/1000, 20 steps.

    diffusers' scheduler, told the official times, which lie between the
    table's: log alpha is linear there, and the network gets 1000 t - 1.
    """
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        euler_at_final=lower_order_final,
    )
    scheduler.set_timesteps(STEPS)
    log_alpha = 0.5 * np.log(scheduler.alphas_cumprod.double().numpy())
    times = np.linspace(1, 1 / 1000, STEPS + 1)
    alpha = np.exp(np.interp(times, np.arange(1, 1001) / 1000, log_alpha))
    scheduler.sigmas = torch.from_numpy(np.sqrt(1 - alpha**2) / alpha)
    scheduler.timesteps = torch.from_numpy(1000 * times[:-1] - 1)
    x = noise
    with torch.no_grad():
        for time in scheduler.timesteps:
            eps = predict(x, time.float().expand(len(x)))
            x = scheduler.step(eps, time, x).prev_sample.float()
    return x


def guided(model, tokens, mask=None, null_mask=None):
    null = model.y_embedder.y_embedding.expand_as(tokens)

    def predict(x, t):
        cond = model(x, t, tokens, mask)[:, :4]
        without = model(x, t, null, null_mask)[:, :4]
        return without + GUIDANCE * (cond - without)

    return predict


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """A tiny Lumos I2I on embeddings of 32 channels, and its file."""
    model = lumos(1, width=32)
    file = tmp_path_factory.mktemp("lumos") / "Lumos_I2I.pth"
    torch.save(model.state_dict(), file)
    return model, file


@pytest.mark.parametrize("lower_order_final", [True, False])
def test_image_to_image(image_model, lower_order_final):
    """Both conventions of the last step."""
    model, file = image_model
    prior = Prior.load(file, heads=HEADS)
    noise, tokens = random(2, 8, 8, 4), random(2, 1, 32, seed=1)
    found = prior.sample(
        noise,
        tokens=tokens,
        steps=STEPS,
        guidance=GUIDANCE,
        solver="dpmpp_2m",
        lower_order_final=lower_order_final,
    )
    predict = guided(model, torch.from_numpy(tokens))
    wanted = official_sample(predict, nchw(noise), lower_order_final)
    assert error(found, nhwc(wanted)) <= LIMIT
    if lower_order_final:  # which is what the checkpoint implies
        again = prior.sample(noise, tokens=tokens)
        assert np.array_equal(again, found)


def test_text_to_image(tmp_path):
    """Masked captions; the null half sees as many tokens as the caption."""
    model = lumos(6)
    torch.save(model.state_dict(), tmp_path / "Lumos_T2I.pth")
    prior = Prior.load(tmp_path / "Lumos_T2I.pth", heads=HEADS)
    noise, tokens = random(2, 8, 8, 4), random(2, 6, 24, seed=1)
    mask = np.arange(6) < np.array([[2], [5]])
    both = [torch.from_numpy(a) for a in (tokens, mask)]
    quirk = guided(model, *both, both[1])
    full = guided(model, *both, None)
    found = prior.sample(noise, tokens=tokens, mask=mask)
    wanted = official_sample(quirk, nchw(noise), False)
    assert error(found, nhwc(wanted)) <= LIMIT
    without = prior.sample(noise, tokens=tokens, mask=mask, null_mask="full")
    wanted = official_sample(full, nchw(noise), False)
    assert error(without, nhwc(wanted)) <= LIMIT
    assert error(found, without) > 10 * LIMIT
    with pytest.raises(UserError, match="guidance needs 6 tokens"):
        prior.sample(noise, tokens=tokens[:, :4], mask=mask[:, :4])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tiny DINO and a tiny SD autoencoder, as folders on disk."""
    folder = tmp_path_factory.mktemp("parts")
    dino = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            layer_norm_eps=1e-6,
        ),
        add_pooling_layer=False,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )
    randomised(dino).save_pretrained(folder / "dino")
    randomised(vae).save_pretrained(folder / "vae")
    return folder, dino, vae


def test_interpolation(image_model, parts, photos):
    """Two photographs to a strip: embed, lerp, sample, decode."""
    model, file = image_model
    folder, dino, vae = parts
    prior = Prior.load(
        file, heads=HEADS, encoder=folder / "dino", autoencoder=folder / "vae"
    )
    ends = sorted(photos.iterdir())[:2]
    frames = prior.interpolate(*ends, frames=3, endpoint=False, seed=5)
    assert frames.shape == (3, 64, 64, 3)

    pixels = []
    for path in ends:
        # torchvision's Resize and CenterCrop on Pillow images.
        image = Image.open(path).convert("RGB")
        short = min(image.size)
        size = [int(32 * side / short) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = ((side - 32) // 2 for side in size)
        pixels.append(np.asarray(image)[top : top + 32, left : left + 32])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = (np.stack(pixels) / 255 - mean) / std
    with torch.no_grad():
        cls = dino(nchw(pixels.astype("f4"))).last_hidden_state[:, :1]
        cls = torch.nn.functional.normalize(cls, dim=-1)
        weights = torch.arange(0, 1, 1 / 3)[:3, None, None]
        tokens = (1 - weights) * cls[:1] + weights * cls[1:]
        from i2i_prior.inference.generator import draw_noise

        noise = np.asarray(draw_noise(5, range(1), (8, 8, 4)))
        shared = nchw(np.repeat(noise, 3, axis=0))
        latents = official_sample(guided(model, tokens), shared, True)
        images = vae.decode(latents / 0.18215).sample
    wanted = nhwc((images * 127.5 + 127.5).round().clamp(0, 255))
    difference = np.abs(frames.astype(int) - wanted.astype(int))
    assert difference.max() <= 1
    assert wanted.std() > 5


def test_parts_that_do_not_fit(image_model, parts, tmp_path):
    _, file = image_model
    folder, *_ = parts
    other = tmp_path / "other.pth"
    torch.save(lumos(1).state_dict(), other)
    with pytest.raises(UserError, match="conditioned on 24"):
        Prior.load(other, heads=HEADS, encoder=folder / "dino")
    bare = Prior.load(file, heads=HEADS)
    noise = random(1, 8, 8, 4)
    with pytest.raises(UserError, match="no image encoder"):
        bare.vary([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(UserError, match="need an autoencoder"):
        bare.decode(noise)
    with pytest.raises(UserError, match=r"tokens are \(1, M, 32\)"):
        bare.sample(noise, tokens=random(1, 1, 24))
    with pytest.raises(UserError, match="give heads"):
        Prior.load(file)
    torch.save(lumos(6).state_dict(), other)
    with pytest.raises(UserError, match="not conditioned on images"):
        Prior.load(other, heads=HEADS, encoder=folder / "dino")
