"""Tiny-ImageNet at 64 pixels, from latents that are prepared once.

    i2i-prior prepare --source tar:ROOT/train.tar --out LATENTS --size 64 \\
        --flip --latents taef2 --latent-weights ENCODER.pth,DECODER.pth \\
        --embeddings image=IMAGE_ENCODER:patches
    i2i-prior train --config configs/tiny_latents.py --workdir runs/latents \\
        --config.data.source=arrayrecord:LATENTS

The autoencoder is TAEF2 (32 channels at an eighth of the sides); any image
encoder that `load_encoder` opens will do, and what the config says of its
shape must be that encoder's (here: what configs/quickstart.py trains, written
by `i2i-prior export --part encoder`). To see sample grids, set
train.sample_every and encoder.kind=frozen, and name the weights of both.
"""

from i2i_prior.config import default_config, parse_arg


def get_config(arg=""):
    """`steps=N`."""
    options = parse_arg(arg, steps=3000)
    config = default_config()
    config.name = "tiny_latents"

    config.data.cached = True
    config.data.image_size = 64
    config.data.batch_size = 32
    config.autoencoder.kind = "taef2"

    config.model.block = "modern"
    config.model.depth = 6
    config.model.width = 256
    config.model.heads = 8
    config.model.patch = 1
    config.model.precision = "float32"
    config.model.scan_unroll = 6

    config.encoder.kind = "none"  # only its shape counts here
    config.encoder.depth = 2
    config.encoder.width = 128
    config.encoder.heads = 4
    config.encoder.patch = 8
    config.encoder.image_size = 32
    config.conditioner.tokens_from = "patches"
    config.conditioner.expand = 1
    config.conditioner.normalize = False

    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 200
    config.optim.schedule = "cosine"
    config.train.steps = options.steps
    config.train.ema_decay = 0.998
    config.train.checkpoint_every = 500
    config.train.sample_every = 0
    config.sample.guidance = 1.5
    return config
