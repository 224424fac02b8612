"""Cost of a config: parameters, FLOPs and bytes, without an array.

One multiply-add is 2 FLOPs. A trained layer costs three forward passes: its
own, and two products in the backward pass.
"""

import math
from dataclasses import dataclass

from ml_collections import ConfigDict

from i2i_prior.flops.networks import networks, recomputed_macs
from i2i_prior.flops.trace import Part
from i2i_prior.models.dit_config import token_count
from i2i_prior.tasks.inputs import example_spec
from i2i_prior.tasks.resolve import resolve

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Cost:
    """Cost of a config, per example unless stated."""

    # Trained ones of the whole model, N of the laws: DiT and conditioner, and
    # an encoder that is trained along
    parameters: int
    # Those that the model carries and does not train: encoder, autoencoder, a
    # random null token, and the queries and keys that a single condition token
    # leaves unused
    frozen_parameters: int
    tokens: int  # image tokens; D of the laws is their number over a run
    condition_tokens: int  # M, as cross-attention sees them
    forward_flops: int  # of one forward pass of all trained networks
    training_flops: int  # C of the laws, 3 x `forward_flops`
    attention_flops: int  # of `training_flops`, scores and weighted sums
    # Forward pass of a frozen image encoder; 0 where it is trained or its
    # embeddings are cached
    encoder_flops: int
    # Of encoding to a latent; 0 where latents are cached
    autoencoder_flops: int
    model_flops: int  # of all networks, what an MFU is a share of
    recomputed_flops: int  # what remat computes a second time
    total_flops: int  # all that an accelerator does
    state_bytes: int  # parameters, EMA and moments of the whole run
    checkpoint_bytes: int  # the arrays of one checkpoint
    gradient_bytes: int  # one float32 gradient of the whole model
    data_bytes: int  # what a step is given of one example


def training_flops(forward_macs: int, frozen_macs: int = 0) -> int:
    """FLOPs of forward and backward on one example.

    A trained layer costs three forward passes (its own, and two products in
    the backward pass), a frozen one costs one. Recomputation under remat is
    not counted: it is not useful work.
    """
    return 2 * (3 * forward_macs + frozen_macs)


def run_cost(config: ConfigDict) -> Cost:
    """Counts a config as it trains.

    A new shape takes some tenths of a second to trace, a known one less than
    a millisecond.
    """
    model = networks(config)
    whole, trained, frozen = Part(), Part(), {}
    for name, network in model.by_name.items():
        part = network.whole
        whole = whole + part
        if network.trained:
            trained = trained + part
        else:
            frozen[name] = 2 * part.macs
    parameters = whole.parameters - whole.frozen
    recomputed = 2 * recomputed_macs(config)
    training = training_flops(trained.macs)
    all_networks = training + sum(frozen.values())
    state = _state_bytes(config, parameters, whole.frozen)
    return Cost(
        parameters=parameters,
        frozen_parameters=whole.frozen,
        tokens=token_count(model.dit),
        condition_tokens=model.condition_tokens,
        forward_flops=2 * trained.macs,
        training_flops=training,
        attention_flops=training_flops(trained.scores),
        encoder_flops=frozen.get("encoder", 0),
        autoencoder_flops=frozen.get("autoencoder", 0),
        model_flops=all_networks,
        recomputed_flops=recomputed,
        total_flops=all_networks + recomputed,
        state_bytes=state,
        checkpoint_bytes=state,  # all of the state, each array once
        gradient_bytes=4 * parameters,
        data_bytes=sum(
            math.prod(array.shape) * array.dtype.itemsize
            for array in example_spec(config, resolve(config)).values()
        ),
    )


def _state_bytes(config: ConfigDict, trained: int, frozen: int) -> int:
    """Float32 parameters, the EMA and Adam's two moments in their dtypes."""
    each = 4 + _BYTES[config.train.ema_dtype]
    each += 2 * _BYTES[config.optim.moment_dtype]
    # The run's step, Adam's and the schedule's, int32 each.
    return trained * each + frozen * 4 + 3 * 4


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one step over the global batch and all chips."""

    prior: float  # DiT and conditioner, forward and backward
    # The image encoder, forward, and backward where it is trained
    encoder: float
    autoencoder: float  # the frozen autoencoder's encoder, forward
    recomputed: float  # what remat computes a second time; no model FLOPs
    # Scores and weighted sums of the DiT among `prior` and `recomputed`
    attention: float
    # Scores that fused attention makes once more in its backward pass and no
    # others do; no model FLOPs
    rescored: float

    @property
    def model(self) -> float:
        """FLOPs that the step needs: all but `recomputed`."""
        return self.prior + self.encoder + self.autoencoder

    def executed(self, width_padding: float, head_padding: float) -> float:
        """FLOPs of the matrix units with fused attention.

        Their paddings are the model's width as they pad it over itself, and
        the same of a head's width, for attention.
        """
        others = self.model + self.recomputed - self.attention
        fused = self.attention + self.rescored
        return others * width_padding + fused * head_padding


def step_flops(config: ConfigDict) -> StepFlops:
    """FLOPs of a step of a config."""
    images = config.data.batch_size
    model = networks(config)
    flops = {"conditioner": 0, "encoder": 0, "autoencoder": 0}
    for name, network in model.by_name.items():
        macs = network.whole.macs
        each = training_flops(macs) if network.trained else 2 * macs
        flops[name] = each * images
    scores = 2 * model.by_name["dit"].whole.scores * images
    # How often remat runs attention again, the scores alone being half of it.
    passes = {"none": 0.0, "full": 1.0}.get(model.dit.remat, 0.5)
    again = recomputed_macs(config)
    return StepFlops(
        prior=flops["dit"] + flops["conditioner"],
        encoder=flops["encoder"],
        autoencoder=flops["autoencoder"],
        recomputed=2 * again * images,
        attention=scores * (3 + passes),
        # Where remat makes the scores, the kernel does it in its stead.
        rescored=0.0 if passes == 0.5 else scores / 2,
    )
