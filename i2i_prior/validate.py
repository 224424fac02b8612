"""Config mistakes, found before anything is built, one sentence each."""

from __future__ import annotations

from ml_collections import ConfigDict

from i2i_prior.config import FIELDS, flatten
from i2i_prior.errors import UserError

_CHOICES = {
    "data.crop": ("random", "center"),
    "autoencoder.kind": ("pixels",),
    "encoder.kind": ("joint", "frozen"),
    "conditioner.choice": ("cls", "patches", "pyramid"),
    "conditioner.null": ("trained", "random"),
    "diffusion.weighting": ("none", "min_snr"),
    "diffusion.time": ("uniform", "logit_normal"),
    "optim.schedule": ("constant", "cosine", "linear"),
}
_POSITIVE = (
    "data.image_size",
    "data.batch_size",
    "data.threads",
    "model.depth",
    "model.width",
    "model.heads",
    "model.patch",
    "encoder.depth",
    "encoder.width",
    "encoder.heads",
    "encoder.patch",
    "encoder.image_size",
    "conditioner.expand",
    "train.steps",
    "train.accumulate",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_keep",
    "sample.steps",
    "evaluate.batch_size",
)
_SHARES = (
    "data.flip",
    "data.view_flip",
    "data.max_broken",
    "conditioner.drop_rate",
    "conditioner.mask_rate",
    "sample.guidance_low",
    "sample.guidance_high",
)


def validate(config: ConfigDict, devices: int) -> None:
    """Checks a config against itself and the device count.

    What a component can check by itself (unknown block, width and heads,
    patch and size) it checks when it is built.

    Raises:
      UserError: at the first mistake.
    """
    flat = flatten(config)
    for name, default, _ in FIELDS:
        if type(flat[name]) is not type(default):
            raise UserError(
                f"config field {name} takes {type(default).__name__}, not "
                f"{flat[name]!r}"
            )
    for name, known in _CHOICES.items():
        if flat[name] not in known:
            raise UserError(
                f"config field {name} is {flat[name]!r}; choose "
                f"{' or '.join(known)}"
            )
    for name in _POSITIVE:
        if flat[name] < 1:
            raise UserError(
                f"config field {name} is {flat[name]}; it must be 1 or more"
            )
    for name in _SHARES:
        if not 0 <= flat[name] <= 1:
            raise UserError(
                f"config field {name} is {flat[name]}; it must be 0 to 1"
            )
    _validate_batch(config, devices)
    _validate_condition(config)


def _validate_batch(config: ConfigDict, devices: int) -> None:
    batch, accumulate = config.data.batch_size, config.train.accumulate
    if batch % accumulate:
        raise UserError(
            f"data.batch_size {batch} does not split into train.accumulate "
            f"{accumulate} micro-batches"
        )
    tensor = max(config.mesh.tensor, 1)
    shards = max(devices // tensor, 1)
    if (batch // accumulate) % shards:
        raise UserError(
            f"data.batch_size {batch} over train.accumulate {accumulate} "
            f"does not divide over {shards} data-parallel devices; choose a "
            f"multiple of {shards * accumulate}"
        )


def _validate_condition(config: ConfigDict) -> None:
    from i2i_prior.tasks.i2i import conditioner_config

    tokens = conditioner_config(config).tokens
    if tokens == 1 and not config.model.one_token:
        raise UserError(
            "one condition token makes cross-attention a constant and leaves "
            "its q and k untrained; set conditioner.expand above 1, or "
            "model.one_token=true to keep Lumos' layout knowingly"
        )
    if tokens > 1 and config.model.one_token:
        raise UserError(
            f"model.one_token is set, but the conditioner makes {tokens} "
            "tokens; set model.one_token=false or conditioner.expand=1"
        )
    if tokens == 1 and config.conditioner.mask_rate:
        raise UserError(
            "conditioner.mask_rate needs more than one condition token; set "
            "it to 0 or raise conditioner.expand"
        )
    if config.encoder.kind == "frozen" and not config.encoder.weights:
        raise UserError(
            "a frozen encoder needs encoder.weights: a safetensors file that "
            "`i2i-prior export --part encoder` wrote, or 'random' to say "
            "that random features are meant"
        )
    if config.diffusion.learn_sigma and config.diffusion.path == "flow":
        raise UserError(
            "diffusion.learn_sigma needs a DDPM path; set it to false or "
            "diffusion.path=ddpm_linear"
        )
