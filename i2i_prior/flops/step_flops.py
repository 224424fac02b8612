"""FLOPs of one training step by network."""

from __future__ import annotations

from dataclasses import dataclass

from ml_collections import ConfigDict

from i2i_prior.flops.cost import training_flops
from i2i_prior.flops.networks import networks, recomputed_macs


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one step over the global batch and all chips.

    Attributes:
      prior: DiT and conditioner, forward and backward.
      encoder: the image encoder, forward, and backward where it is trained.
      autoencoder: the frozen autoencoder's encoder, forward.
      recomputed: what remat computes a second time; no model FLOPs.
      attention: scores and weighted sums of the DiT among `prior` and
        `recomputed`.
      rescored: scores that fused attention makes once more in its backward
        pass and no others do; no model FLOPs.
    """

    prior: float
    encoder: float
    autoencoder: float
    recomputed: float
    attention: float
    rescored: float

    @property
    def model(self) -> float:
        """FLOPs that the step needs: all but `recomputed`."""
        return self.prior + self.encoder + self.autoencoder

    def executed(self, width_padding: float, head_padding: float) -> float:
        """FLOPs of the matrix units with fused attention.

        Args:
          width_padding: width of the model as the matrix units pad it, over
            itself.
          head_padding: the same of a head's width, for attention.
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
