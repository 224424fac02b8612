"""The smallest run that has every part: all tests train this one."""

from i2i_prior.config import default_config, parse_arg


def get_config(arg=""):
    """`source=SPEC` for other images than the built-in photographs."""
    options = parse_arg(arg, source="builtin:photos")
    config = default_config()
    config.name = "tiny"
    config.data.source = options.source
    config.data.held_out = options.source
    config.data.image_size = 8
    config.data.batch_size = 8
    config.data.threads = 1
    config.data.prefetch = 2

    config.model.block = "modern"
    config.model.depth = 2
    config.model.width = 32
    config.model.heads = 2
    config.model.patch = 4
    config.model.precision = "float32"
    config.encoder.depth = 1
    config.encoder.width = 16
    config.encoder.heads = 2
    config.encoder.patch = 4
    config.encoder.image_size = 8
    config.conditioner.expand = 2

    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 2
    config.optim.weight_decay = 0.01
    config.train.steps = 6
    config.train.log_every = 1
    config.train.checkpoint_every = 2
    config.train.checkpoint_keep = 5
    config.train.sample_every = 0
    config.train.tensorboard = False
    config.sample.steps = 2
    config.sample.conditions = 2
    config.sample.variations = 2
    config.evaluate.num_samples = 4
    config.evaluate.batch_size = 4
    return config
