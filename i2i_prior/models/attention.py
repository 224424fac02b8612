"""Self-attention, cross-attention and the product both share."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from i2i_prior.models.attention_kernels import FORMS, choose, per_shard, xla
from i2i_prior.models.layers import ATTENTION, Linear, xavier, zeros
from i2i_prior.models.positions import rotate
from i2i_prior.models.precision import FLOAT32, Array, Precision
from i2i_prior.parallel.constraints import constrain, shards
from i2i_prior.parallel.mesh import BATCH, CONTEXT, TENSOR
from i2i_prior.parallel.roles import COLUMN, ROW, fused


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    precision: Precision = FLOAT32,
    form: str = "auto",
) -> Array:
    """softmax(q k^T / sqrt(d)) v, named `ATTENTION` for remat policies.

    q is (B, N, heads, d), k and v (B, M, heads, d), the mask bool (B, M), true
    where a key counts; None counts all. `precision` is that of the two products
    and of the result, `form` one of `attention_kernels.CHOICES`. Returns (B, N,
    heads, d) in the activation dtype. UserError where the form cannot run on
    the platform traced for.
    """
    # Queries keep their tokens apart and meet all keys; heads lie apart.
    q = constrain(q, BATCH, CONTEXT, TENSOR)
    k, v = (constrain(a, BATCH, None, TENSOR) for a in (k, v))
    q, k, v = (a.astype(precision.operands) for a in (q, k, v))
    name = choose(form, q, k, mask)
    with jax.named_scope("scores"):
        if name == "xla" and shards(CONTEXT, TENSOR) == 1:
            out = xla(q, k, v, mask)  # leaves the layout to the compiler
        else:
            out = per_shard(FORMS[name], q, k, v, mask)
    out = out.astype(precision.activations)
    if name in ("batched", "xla"):
        # Heads merged: a last axis of d would be padded to a TPU's lanes.
        merged = rearrange(out, "b n h d -> b n (h d)")
        out = checkpoint_name(merged, ATTENTION).reshape(out.shape)
    return out


class Attention(nnx.Module):
    """Heads that self- and cross-attention share; `qk_norm` makes a norm over
    the d channels of a head, `form` is one of `attend`."""

    def __init__(
        self,
        width: int,
        heads: int,
        precision: Precision,
        qk_norm: Callable[[int], nnx.Module] | None,
        form: str,
    ):
        self.q_norm = qk_norm(width // heads) if qk_norm else None
        self.k_norm = qk_norm(width // heads) if qk_norm else None
        self.heads = heads
        self.precision = precision
        self.form = form

    def _attend(
        self,
        *qkv: Array,
        mask: Array | None = None,
        angles: np.ndarray | None = None,
    ) -> Array:
        """q (B, N, D), k and v (B, M, D) -> (B, N, D)."""
        q, k, v = (
            rearrange(a, "b n (h d) -> b n h d", h=self.heads) for a in qkv
        )
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q).astype(q.dtype)
            k = self.k_norm(k).astype(k.dtype)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        out = attend(q, k, v, mask, self.precision, self.form)
        return rearrange(out, "b n h d -> b n (h d)")


class SelfAttention(Attention):
    """Multi-head self-attention with a fused qkv kernel, rows [q | k | v]."""

    roles: ClassVar = {"qkv": fused(3), "out": ROW}

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        precision: Precision = FLOAT32,
        qk_norm: Callable[[int], nnx.Module] | None = None,
        form: str = "auto",
        **options: Any,
    ):
        super().__init__(width, heads, precision, qk_norm, form)
        options["precision"] = precision
        self.qkv = Linear(width, 3 * width, **options)
        self.out = Linear(width, width, **options)

    @jax.named_scope("attention")
    def __call__(self, x: Array, angles: np.ndarray | None = None) -> Array:
        """x (B, N, D) -> (B, N, D); angles (N, d // 2) switches RoPE on."""
        return self.out(self._attend(*self.qkv.split(x, 3), angles=angles))


class CrossAttention(Attention):
    """Queries from the image tokens, keys and values from the condition.

    With a single unmasked condition token the softmax over one key is 1, so
    the result is out(v(token)) for every query, whatever q and k are. Then
    neither is computed (13.8 % fewer FLOPs in Lumos-XL/2) and neither
    receives a gradient: `tasks` leaves them out of the optimizer.
    """

    roles: ClassVar = {"q": COLUMN, "k": COLUMN, "v": COLUMN, "out": ROW}

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        precision: Precision = FLOAT32,
        qk_norm: Callable[[int], nnx.Module] | None = None,
        form: str = "auto",
        zero_out: bool = True,
        fast_path: bool = True,
        tie_init: bool = False,
        **options: Any,
    ):
        super().__init__(width, heads, precision, qk_norm, form)
        options["precision"] = precision
        self.q = Linear(width, width, **options)
        # Lumos fuses k and v in one kernel of 2D rows: its Xavier fans.
        fused = xavier(width, 2 * width)
        self.k = Linear(width, width, init=fused, **options)
        if tie_init:
            # Image and condition tokens carry the same position table: with
            # equal projections each looks at its own place from the start.
            self.k.kernel = nnx.Param(jnp.copy(self.q.kernel[...]))
        self.v = Linear(width, width, init=fused, **options)
        out_init = zeros if zero_out else None
        self.out = Linear(width, width, init=out_init, **options)
        self.fast_path = fast_path

    @jax.named_scope("cross_attention")
    def __call__(
        self, x: Array, tokens: Array, mask: Array | None = None
    ) -> Array:
        """x (B, N, D), tokens (B, M, D), mask bool (B, M), true where a token
        counts -> (B, N, D), or (B, 1, D) to be broadcast where M is 1."""
        if self.fast_path and tokens.shape[1] == 1 and mask is None:
            return self.out(self.v(tokens))
        q, k, v = self.q(x), self.k(tokens), self.v(tokens)
        return self.out(self._attend(q, k, v, mask=mask))
