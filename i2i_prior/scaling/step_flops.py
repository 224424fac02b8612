"""FLOPs of one training step by what they are spent on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ml_collections import ConfigDict

from i2i_prior.models.dit import DiTConfig, token_count
from i2i_prior.scaling import flops
from i2i_prior.tasks import modules


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one step over the global batch and all chips.

    Attributes:
      prior: DiT and conditioner, forward and backward.
      encoder: the image encoder, forward, and backward where it is trained.
      autoencoder: the frozen autoencoder's encoder, forward.
      recomputed: what remat computes a second time; no model FLOPs.
      attention: scores and weighted sums of the DiT among `prior` and
        `recomputed`, with the scores once more that fused attention
        computes in its backward pass.
    """

    prior: float
    encoder: float
    autoencoder: float
    recomputed: float
    attention: float

    @property
    def model(self) -> float:
        """What the step needs: all but `recomputed`."""
        return self.prior + self.encoder + self.autoencoder

    def executed(self, width_padding: float, head_padding: float) -> float:
        """What the matrix units do.

        Args:
          width_padding: width of the model as the matrix units pad it, over
            itself.
          head_padding: the same of a head's width, for attention.
        """
        scores = self.attention / 8  # 1 of 2 products in 1 of 4 passes
        others = self.model + self.recomputed - self.attention
        return others * width_padding + (self.attention + scores) * head_padding


def step_flops(config: ConfigDict) -> StepFlops:
    """Analytic counts of a config; see `scaling.flops`."""
    dit, conditioner = (
        modules.dit_config(config),
        modules.conditioner_config(config),
    )
    prior = flops.dit_macs(dit, conditioner.tokens)
    again = recomputed_macs(dit, conditioner.tokens)
    attention = _attention_macs(dit, conditioner.tokens)
    prior += flops.conditioner_macs(
        conditioner.embedding_width,
        conditioner.width,
        conditioner.embeddings,
        conditioner.expand,
    )
    encoder = flops.vit_macs(modules.encoder_config(config))
    trained = config.encoder.kind != "frozen"
    encoded = not config.data.cached
    latent = modules.autoencoder_config(config)
    images = config.data.batch_size
    passes = 4 if dit.remat == "full" else 3
    return StepFlops(
        prior=flops.training_flops(prior) * images,
        encoder=flops.training_flops(encoder * trained, encoder * (not trained))
        * images
        * encoded,
        autoencoder=2.0
        * flops.encode_macs(latent, config.data.image_size)
        * images
        * encoded,
        recomputed=2.0 * again * images,
        attention=2.0 * attention * passes * images,
    )


def _attention_macs(dit: DiTConfig, tokens: int) -> int:
    queries = token_count(dit)
    macs = flops.attention_macs(dit.depth, queries, queries, dit.width)
    if dit.cross_attention and tokens > 1:
        macs += flops.attention_macs(dit.depth, queries, tokens, dit.width)
    return macs


def recomputed_macs(dit: DiTConfig, tokens: int) -> int:
    """Multiply-adds of the second forward pass, of one example.

    Args:
      dit: its `remat` says what is kept.
      tokens: condition tokens M.
    """
    ends = flops.dit_macs(dataclasses.replace(dit, depth=0), tokens)
    blocks = flops.dit_macs(dit, tokens) - ends
    attention = _attention_macs(dit, tokens)
    hidden = _hidden_macs(dit)
    kept = {
        "none": blocks,
        "dots": blocks,
        "attention": attention,
        "hidden": attention + hidden,
    }
    return blocks - kept.get(dit.remat, 0)


def _hidden_macs(dit: DiTConfig) -> int:
    """Of the products that make the MLPs' hidden channels."""
    hidden = int(dit.mlp_ratio * dit.width)
    if dit.block == "modern":
        hidden = 2 * 16 * round(dit.mlp_ratio * dit.width * 2 / 3 / 16)
    return dit.depth * token_count(dit) * dit.width * hidden
