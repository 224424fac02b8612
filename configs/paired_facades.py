"""Labels of facades to photographs: paired translation on 400 pairs.

    i2i-prior train --config configs/paired_facades.py:data=FACADES \
        --workdir runs/facades

FACADES is a folder of train.tar, val.tar and test.tar, with NAME.labels.jpg
and NAME.photo.jpg of each facade (CMP facade database, Tylecek and Sara,
GCPR 2013). The labels reach the network through the concat door. At 32 pixels
on two CPU cores 600 steps take about two minutes; samples then have the
windows and doors where the labels have them.
"""

from i2i_prior.config import default_config, parse_arg


def get_config(arg=""):
    """`data=FOLDER` of the archives, `res=SIDE` of the images in pixels."""
    options = parse_arg(arg, data="facades", res=32)
    config = default_config()
    config.name = "paired_facades"
    config.task = "paired"
    config.data.source = f"tar:{options.data}/train.tar"
    config.data.held_out = f"tar:{options.data}/val.tar"
    config.data.pair = "labels.jpg:photo.jpg"
    config.data.image_size = options.res
    config.data.batch_size = 16
    config.data.min_scale = 0.5

    config.model.block = "modern"
    config.model.depth = 4
    config.model.width = 128
    config.model.heads = 4
    config.model.patch = 4
    config.model.precision = "float32"
    config.conditioner.tokens_from = "none"
    config.conditioner.concat_from = "source"
    config.encoder.kind = "none"

    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 50
    config.optim.schedule = "cosine"
    config.train.steps = 600
    config.train.ema_decay = 0.99
    config.train.checkpoint_every = 300
    config.train.sample_every = 300
    config.sample.guidance = 1.5
    config.evaluate.num_samples = 100
    return config
