"""A prior from nothing but photographs, on a laptop, in minutes.

    i2i-prior train --config configs/quickstart.py --workdir runs/quickstart

Seven colour photographs (inside the scikit-image and scikit-learn wheels)
are cropped at random to 32 pixels; the encoder is trained along with the
DiT. Three other photographs are held out whole for samples and scores.
"""

from i2i_prior.config import default_config, parse_arg


def get_config(arg=""):
    """`steps=N` shortens or lengthens the run."""
    options = parse_arg(arg, steps=1200)
    config = default_config()
    config.name = "quickstart"

    config.data.image_size = 32
    config.data.batch_size = 32
    config.data.min_scale = 0.05
    config.data.view_min_scale = 0.8

    config.model.block = "modern"
    config.model.depth = 4
    config.model.width = 160
    config.model.heads = 4
    config.model.patch = 4
    config.model.precision = "bfloat16_matmul"
    config.model.scan_unroll = 4

    config.encoder.depth = 2
    config.encoder.width = 128
    config.encoder.heads = 4
    config.encoder.patch = 8
    config.encoder.image_size = 32
    config.conditioner.tokens_from = "patches"
    config.conditioner.expand = 1
    config.conditioner.normalize = False

    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.schedule = "cosine"
    config.train.steps = options.steps
    config.train.ema_decay = 0.995
    config.train.log_every = 25
    config.train.checkpoint_every = 300
    config.train.sample_every = 600
    config.train.evaluate_every = 600
    config.sample.steps = 12
    config.sample.guidance = 1.5
    return config
