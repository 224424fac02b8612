"""Image embedding -> condition tokens for the DiT's cross-attention."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.layers import Linear, embedding_mlp, gelu_tanh, normal
from i2i_prior.models.mup import width_ratio
from i2i_prior.models.positions import sincos_at
from i2i_prior.models.precision import FLOAT32, Array, Precision
from i2i_prior.models.vit import Features

# Cells of the pooled pyramid: 1x1, 2x2 and 4x4 averages of the patch grid.
PYRAMID = (1, 2, 4)


@dataclass(frozen=True)
class ConditionerConfig:
    """Shape of a conditioner."""

    embedding_width: int = 768  # C, channels of one embedding
    width: int = 1152  # D of the DiT
    # "cls" (1 embedding), "patches" (N), "pyramid" (the 1x1, 2x2 and 4x4
    # averages of the patch grid: 21), or "tokens" (`length` given by the
    # caller, such as a caption's)
    tokens_from: str = "cls"
    patches: int = 0  # N, patch tokens of the encoder
    length: int = 0  # M0 of "tokens"
    # Tokens made of each embedding by a learned linear map; 1 adds no
    # parameters
    expand: int = 1
    # "random" (a fixed random vector, as Lumos and PixArt), "trained", or
    # "given" (none of its own: the caller embeds an empty caption)
    null: str = "random"
    # Divide each embedding by its L2 norm, as Lumos does
    normalize: bool = True
    # Factor after the normalisation; 1 for Lumos, sqrt(C) gives unit variance
    scale: float = 1.0
    # Side of the DiT's token grid; patch and pyramid tokens then carry the
    # position table of the place they describe, so that image tokens find
    # theirs. 0 adds no positions.
    grid: int = 0
    mup_base_width: int = 0  # see `DiTConfig`

    @property
    def embeddings(self) -> int:
        """M0, embeddings an image is described by."""
        known = {"cls": 1, "patches": self.patches, "tokens": self.length}
        return known.get(self.tokens_from, sum(n * n for n in PYRAMID))

    @property
    def tokens(self) -> int:
        """M, condition tokens the DiT sees."""
        return self.embeddings * self.expand


class NullToken(nnx.Variable):
    """A buffer that is saved with the parameters but never trained."""


class Conditioner(nnx.Module):
    """Chooses, normalises, drops, expands and projects image embeddings;
    UserError for an unknown choice or null token."""

    def __init__(
        self,
        config: ConditionerConfig,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
    ):
        if config.tokens_from not in ("cls", "patches", "pyramid", "tokens"):
            raise UserError(
                f"conditioner.tokens_from {config.tokens_from!r} is unknown; "
                "choose cls, patches, pyramid or tokens"
            )
        if config.null not in ("random", "trained", "given"):
            raise UserError(
                f"conditioner.null {config.null!r} is unknown; choose random "
                "or trained"
            )
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        inputs, expand = config.embedding_width, config.expand
        null = normal(inputs**-0.5)(rngs.params(), (config.embeddings, inputs))
        kind = nnx.Param if config.null == "trained" else NullToken
        self.null = None if config.null == "given" else kind(null)
        self.expand = (
            Linear(inputs, expand * inputs, **options) if expand > 1 else None
        )
        options["ratio"] = width_ratio(config.mup_base_width, config.width)
        self.project = embedding_mlp(
            inputs, config.width, activation=gelu_tanh, **options
        )
        self.config = config

    @jax.named_scope("conditioner")
    def choose(self, features: Features) -> Array:
        """Encoder features -> normalised embeddings, float32 (B, M0, C)."""
        tokens_from = self.config.tokens_from
        if tokens_from == "cls":
            chosen = features.cls[:, None]
        elif tokens_from == "patches":
            chosen = features.patches
        else:
            chosen = pyramid(features.patches)
        chosen = chosen.astype(jnp.float32)
        if self.config.normalize:
            norm = jnp.linalg.norm(chosen, axis=-1, keepdims=True)
            chosen = chosen / jnp.maximum(norm, 1e-12)
        return chosen * self.config.scale

    @jax.named_scope("conditioner")
    def __call__(self, embeddings: Array, drop: Array | None = None) -> Array:
        """Embeddings (B, M0, C) of `choose` -> condition tokens (B, M, D).

        Where `drop`, bool (B,), is true, the null token replaces those of an
        example (classifier-free guidance, arXiv 2207.12598).
        """
        if drop is not None and self.null is not None:
            null = self.null[...][None]
            embeddings = jnp.where(drop[:, None, None], null, embeddings)
        if self.expand is not None:
            with jax.named_scope("expand"):
                expanded = self.expand(embeddings)
            embeddings = rearrange(
                expanded, "b m (e c) -> b (m e) c", e=self.config.expand
            )
        with jax.named_scope("project"):
            tokens = self.project(embeddings)
        placed = self.config.tokens_from in ("patches", "pyramid")
        if self.config.grid and placed:
            tokens = tokens + token_positions(self.config)
        return tokens

    def null_embeddings(self, batch: int) -> Array:
        """The unconditional input, float32 (B, M0, C); UserError where the null
        is given by the caller."""
        if self.null is None:
            raise UserError(
                "this model's weights hold no null tokens (a diffusers "
                "pipeline embeds the empty prompt); give null_tokens, or "
                "sample with guidance=1"
            )
        null = self.null[...].astype(jnp.float32)
        return jnp.broadcast_to(null, (batch, *null.shape))


def token_positions(config: ConditionerConfig) -> np.ndarray:
    """Position table at the centres of patches or cells, float32 (M, D)."""
    tables, whole = [], (round(config.patches**0.5),)
    for side in PYRAMID if config.tokens_from == "pyramid" else whole:
        centres = (np.arange(side) + 0.5) * config.grid / side - 0.5
        columns, rows = np.meshgrid(centres, centres)
        tables.append(sincos_at(config.width, rows, columns))
    return np.repeat(np.concatenate(tables), config.expand, axis=0)


@jax.named_scope("pyramid")
def pyramid(patches: Array) -> Array:
    """Averages of the patch grid at 1x1, 2x2, 4x4: (B, N, C) -> (B, 21, C).

    Grids that a level does not divide are averaged over the nearest cells
    (as adaptive average pooling does).
    """
    side = round(patches.shape[1] ** 0.5)
    levels = [_pooling(side, cells) for cells in PYRAMID]
    weights = jnp.asarray(np.concatenate(levels))  # (21, N)
    return jnp.einsum("mn,bnc->bmc", weights, patches.astype(jnp.float32))


def _pooling(side: int, cells: int) -> np.ndarray:
    """Row-stochastic (cells^2, side^2) adaptive-average-pooling matrix."""
    line = np.zeros((cells, side), np.float32)
    for cell in range(cells):
        start = cell * side // cells
        stop = -(-(cell + 1) * side // cells)
        line[cell, start:stop] = 1 / (stop - start)
    return np.kron(line, line)


def draw_keep(key: Array, batch: int, tokens: int, rate: float) -> Array:
    """Token mask, bool (B, M): each token masked with probability `rate`.

    At least one token of every example is kept, since a softmax over none
    is undefined. (Masking condition tokens against identity shortcuts:
    IOMM, CVPR 2026.)
    """
    uniform = jax.random.uniform(key, (batch, tokens))
    highest = uniform == uniform.max(axis=1, keepdims=True)
    return (uniform >= rate) | highest
