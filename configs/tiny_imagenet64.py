"""Real photographs of 200 kinds, 32 pixels: a run of an hour on two cores.

    i2i-prior train --config configs/tiny_imagenet64.py --workdir runs/tiny

Reads WebDataset archives of 64-pixel JPEGs (20,000 to train on, 10,000 held
out); `root` says where they are. Pixels at 32 px, jointly trained encoder.
Expect a loss near 0.1 and variations that keep colour, layout and the large
shapes of their condition, not its details.
"""

from i2i_prior.config import default_config, parse_arg


def get_config(arg=""):
    """`root=FOLDER` of the archives, `steps=N`, `res=32` pixels."""
    options = parse_arg(
        arg, root="../shared/data/tiny_imagenet64", steps=3000, res=32
    )
    config = default_config()
    config.name = "tiny_imagenet64"

    config.data.source = f"tar:{options.root}/train.tar"
    config.data.held_out = f"tar:{options.root}/val.tar"
    config.data.image_size = options.res
    config.data.batch_size = 64
    config.data.min_scale = 0.5
    config.data.view_min_scale = 0.8

    config.model.block = "modern"
    config.model.depth = 4
    config.model.width = 192
    config.model.heads = 4
    config.model.patch = 4
    config.model.precision = "bfloat16_matmul"
    config.model.scan_unroll = 4

    config.encoder.depth = 3
    config.encoder.width = 128
    config.encoder.heads = 4
    config.encoder.patch = 8
    config.encoder.image_size = options.res
    config.conditioner.tokens_from = "patches"
    config.conditioner.expand = 1
    config.conditioner.normalize = False

    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 200
    config.optim.schedule = "cosine"
    config.train.steps = options.steps
    config.train.ema_decay = 0.998
    config.train.checkpoint_every = 500
    config.train.sample_every = 1000
    config.train.evaluate_every = 1000
    config.sample.guidance = 1.5
    config.evaluate.num_samples = 512
    return config
