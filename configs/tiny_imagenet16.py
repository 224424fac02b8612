"""Real photographs of 200 kinds, 16 pixels: minutes on two cores, for sweeps.

    i2i-prior train --config configs/tiny_imagenet16.py --workdir runs/tiny16

The archives of configs/tiny_imagenet64.py, under a fixed random image
encoder: what is learned is the prior's own doing, so that sizes compare.
`configs/sweeps/` changes the size.
"""

from i2i_prior.config import default_config, parse_arg


def get_config(arg=""):
    """`root=FOLDER` of the archives, `steps=N`, `patch=2` pixels."""
    options = parse_arg(
        arg, root="../shared/data/tiny_imagenet64", steps=1000, patch=2
    )
    config = default_config()
    config.name = "tiny_imagenet16"

    config.data.source = f"tar:{options.root}/train.tar"
    config.data.held_out = f"tar:{options.root}/val.tar"
    config.data.image_size = 16
    config.data.batch_size = 16
    config.data.min_scale = 0.5
    config.data.view_min_scale = 0.8

    config.model.block = "modern"
    config.model.depth = 2
    config.model.width = 64
    config.model.heads = 4
    config.model.patch = options.patch
    config.model.precision = "float32"
    config.model.scan_unroll = 2

    config.encoder.kind = "frozen"
    config.encoder.weights = "random"
    config.encoder.depth = 1
    config.encoder.width = 64
    config.encoder.heads = 4
    config.encoder.patch = 4
    config.encoder.image_size = 16
    config.conditioner.tokens_from = "patches"
    config.conditioner.expand = 1
    config.conditioner.normalize = False

    config.optim.learning_rate = 4e-3
    config.optim.warmup_steps = 50
    config.train.steps = options.steps
    config.train.ema_decay = 0.98
    config.train.log_every = 20
    config.train.checkpoint_every = 500
    config.train.sample_every = 0
    config.validation.every = 500
    config.validation.examples = 512
    config.validation.times = 8
    config.sample.guidance = 1.5
    return config
