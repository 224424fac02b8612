"""Lumos I2I XL/2, on latents of the Stable Diffusion autoencoder.

    i2i-prior train --config configs/lumos_xl2.py:res=256 --workdir RUN \\
        --config.data.source=tar:/data/*.tar \\
        --config.encoder.weights=dino_vitbase16_pretrain.pth \\
        --config.autoencoder.weights=sd-vae-ft-mse

For TPU pods and GPU clusters: 822,006,176 parameters beside the frozen DINO
ViT-B/16 and autoencoder. Blocks, conditioner, path and loss are Lumos' (arXiv
2412.07767). Batch, learning rate and EMA were never published; these are
PixArt-alpha's. To start from the released weights, `i2i-prior import` them
and name that run as --config.train.init_from.

A third of a step's FLOPs encode images. To do that once:

    i2i-prior prepare --source 'tar:/data/*.tar' --out /data/latents \\
        --size 256 --flip --latents sd --latent-weights sd-vae-ft-mse \\
        --embeddings dino=dino_vitbase16_pretrain.pth
    i2i-prior train --config configs/lumos_xl2.py:cached=true --workdir RUN \\
        --config.data.source=arrayrecord:/data/latents ...
"""

from i2i_prior.config import default_config, parse_arg
from i2i_prior.models.presets import preset


def get_config(arg=""):
    """`res=256` pixels a side; `cached=true` reads prepared latents."""
    options = parse_arg(arg, res=256, cached=False)
    config = default_config()
    config.name = "lumos_xl2"
    config.data.image_size = options.res
    config.data.batch_size = 2048
    config.data.cached = options.cached

    config.model.update(preset("lumos_xl2"))
    config.model.remat = "dots"  # "full" where memory is short
    config.model.one_token = True

    config.encoder.kind = "frozen"
    config.autoencoder.kind = "sd"
    config.encoder.pixels = "family"
    config.conditioner.expand = 1
    config.conditioner.null = "random"

    config.diffusion.path = "ddpm_linear"
    config.diffusion.prediction = "eps"
    config.diffusion.learn_sigma = True
    config.diffusion.time = "uniform"

    config.optim.learning_rate = 2e-5
    config.optim.weight_decay = 0.03
    config.optim.epsilon = 1e-10
    config.optim.clip_norm = 0.01
    return config
