"""Forms of softmax(q k^T / sqrt(d)) v, and the choice of one.

batched   one 3-D product over (batch * heads): the fastest on CPU
xla       JAX's own 4-D products; the scores go through memory
cudnn     cuDNN's flash attention, on GPUs
splash    Pallas' Splash attention, on TPUs

A form takes q (B, N, heads, d), k and v (B, M, heads, d) and a mask, bool
(B, M) or None, and returns (B, N, heads, d). Every image must have a key that
counts.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec

from i2i_prior.errors import UserError
from i2i_prior.models.layers import ATTENTION
from i2i_prior.models.precision import Array
from i2i_prior.parallel.constraints import (
    dividing,
    mesh_in_use,
    platform,
    shards,
)
from i2i_prior.parallel.mesh import AXES, BATCH, CONTEXT, TENSOR

Form = Callable[[Array, Array, Array, Array | None], Array]

# float32 scores that `batched` makes at once, bytes; more go in turns, which
# stay in a CPU's cache (measured: up to 1.9x faster than all at once).
SCORES_AT_ONCE = 2**22
# Fewest queries and keys that `auto` gives to a fused kernel.
LEAST = {"cudnn": 64, "splash": 1024}
# What Splash multiplies at once, tokens; and how many of these a block holds
# at d <= 128. Larger blocks have fewer steps and fewer partial sums of dq;
# these still fit the 16 MiB of on-chip memory that a kernel gets (v4 to v6e).
TILES = (512, 384, 256)
TILES_Q, TILES_KV, LANES = 2, 4, 128


def batched(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """3-D products over (batch * heads); float32 result."""
    batch, queries, heads, _ = q.shape
    keys = k.shape[1]
    rows = batch * heads

    if mask is not None:
        mask = jnp.repeat(mask, heads, axis=0)[:, None]
    merge = functools.partial(rearrange, pattern="b n h d -> (b h) n d")
    operands = merge(q), merge(k), merge(v), mask
    most = max(SCORES_AT_ONCE // (4 * queries * keys), 1)
    if rows <= most:
        out = _rows(*operands)
    else:
        turn = max(n for n in range(1, most + 1) if rows % n == 0)
        split = jax.tree.map(
            lambda a: a.reshape(rows // turn, turn, *a.shape[1:]), operands
        )
        # Nor are all scores kept for the backward pass: made again.
        out = jax.lax.map(lambda part: jax.checkpoint(_rows)(*part), split)
    out = out.reshape(rows, queries, -1)
    return rearrange(out, "(b h) n d -> b n h d", h=heads)


def _rows(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """q (R, N, d), k and v (R, M, d), mask (R, 1, M) -> float32 (R, N, d)."""
    scores = jax.lax.dot_general(
        q, k, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32
    )
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jax.lax.dot_general(
        weights,
        v,
        (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=jnp.float32,
    )


def xla(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """`jax.nn.dot_product_attention`; float32 products are exact."""
    exact = "highest" if q.dtype == jnp.float32 else None
    full = None if mask is None else mask[:, None, None]
    with jax.default_matmul_precision(exact):
        return jax.nn.dot_product_attention(
            q, k, v, mask=full, implementation="xla"
        )


def cudnn(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """cuDNN's flash attention; bfloat16 in and out, float32 softmax."""
    if mask is not None:
        # It takes any mask, but as a bias of whole rows.
        shape = (q.shape[0], 1, q.shape[1], k.shape[1])
        mask = jnp.broadcast_to(mask[:, None, None], shape)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, implementation="cudnn"
    )


def splash(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Pallas' Splash attention with nothing masked but by key.

    Flash attention (arXiv 2205.14135) for TPUs; softmax and sums in float32.
    Tokens are padded to whole blocks, and padded keys do not count. Away from
    a TPU the kernel is interpreted, for tests.
    """
    kernels, masks = _splash_modules()
    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    sizes, padded_q, padded_kv = _blocks(queries, keys, q.shape[3])

    def lay(a: Array, length: int) -> Array:
        more = length - a.shape[1]
        a = jnp.pad(a, ((0, 0), (0, more), (0, 0), (0, 0)))
        return rearrange(a, "b n h d -> b h n d")

    segments = None
    if mask is not None or padded_kv > keys:
        counts = jnp.ones(k.shape[:2], bool) if mask is None else mask
        counts = jnp.pad(counts, ((0, 0), (0, padded_kv - keys)))
        segments = kernels.SegmentIds(
            q=jnp.ones((q.shape[0], padded_q), jnp.int32),
            kv=counts.astype(jnp.int32),
        )
    whole = masks.FullMask((padded_q, padded_kv))
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([whole] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        # What the backward pass needs besides q, k and v.
        residual_checkpoint_name=ATTENTION,
        interpret=platform() != "tpu",
    )
    scaled = q * jnp.asarray(q.shape[3] ** -0.5, q.dtype)
    out = jax.vmap(kernel)(
        lay(scaled, padded_q), lay(k, padded_kv), lay(v, padded_kv), segments
    )
    return rearrange(out[:, :, :queries], "b h n d -> b n h d")


def _splash_modules() -> tuple[Any, Any]:
    """Kernel and mask, imported where they are used: Pallas takes 0.1 s."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    return splash_attention_kernel, splash_attention_mask


def _blocks(queries: int, keys: int, width: int) -> tuple[Any, int, int]:
    """Block sizes, and the padded lengths of N and M."""
    wide = -(-width // LANES)
    tile_q, padded_q = _tile(queries)
    tile_kv, padded_kv = _tile(keys)
    block_kv = tile_kv * _most(padded_kv // tile_kv, TILES_KV // wide)
    sizes = _splash_modules()[0].BlockSizes(
        block_q=tile_q * _most(padded_q // tile_q, TILES_Q // wide),
        block_kv=block_kv,
        block_kv_compute=tile_kv,
        block_q_dkv=tile_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=tile_kv,
        # 5 products instead of 7, for one dq a block of keys in memory.
        use_fused_bwd_kernel=True,
    )
    return sizes, padded_q, padded_kv


def _tile(length: int) -> tuple[int, int]:
    """The tile that pads a length least, and the padded length."""
    padded, tile = min((-(-length // tile) * tile, -tile) for tile in TILES)
    return -tile, padded


def _most(count: int, limit: int) -> int:
    """The largest divisor of `count` up to `limit`, at least 1."""
    return max(n for n in range(1, max(limit, 1) + 1) if count % n == 0)


FORMS: dict[str, Form] = {
    "batched": batched,
    "xla": xla,
    "cudnn": cudnn,
    "splash": splash,
}
CHOICES = ("auto", *FORMS)
_FUSED = {"cudnn": ("gpu", "cuda"), "splash": ("tpu",)}  # and their platforms


def choose(name: str, q: Array, k: Array, mask: Array | None) -> str:
    """Name of the form that runs on the platform that is traced for; UserError
    where the named form, one of CHOICES, cannot run there."""
    if name == "auto":
        if platform() == "cpu":
            return "batched"
        name = "splash" if platform() == "tpu" else "cudnn"
        short = min(q.shape[1], k.shape[1]) < LEAST[name]
        return "xla" if short or _refusal(name, q, k, mask) else name
    refusal = _refusal(name, q, k, mask) if name in _FUSED else ""
    if refusal:
        raise UserError(
            f"model.attention {name} {refusal}; set model.attention=auto"
        )
    return name


def _refusal(name: str, q: Array, k: Array, mask: Array | None) -> str:
    """Reason that a fused form cannot run; "" where it can."""
    if platform() not in _FUSED[name]:
        return f"runs on {_FUSED[name][0]}, not on {platform()}"
    if q.dtype != jnp.bfloat16:
        return f"multiplies bfloat16, not {q.dtype}"
    if name == "cudnn":
        # cuDNN before Hopper; with a bias it wants even lengths.
        if q.shape[3] % 8 or q.shape[3] > 128:
            return f"has no heads of width {q.shape[3]}"
        if mask is not None and (q.shape[1] % 2 or k.shape[1] % 2):
            return "takes a mask only for even numbers of tokens"
        if not has_cudnn():
            return "finds no cuDNN here"
    return ""


@functools.cache
def has_cudnn() -> bool:
    """Returns True if cuDNN is installed; JAX reads its version in a trace."""
    probe = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(lambda x: cudnn(x, x, x, None), probe)
    except RuntimeError:
        return False
    return True


def per_shard(
    form: Form, q: Array, k: Array, v: Array, mask: Array | None
) -> Array:
    """`form` on each device's own images, queries and heads.

    No form mixes images, queries or heads, so each device calls it with its
    own and all keys, and a kernel does not depend on the mesh.
    """
    mesh = mesh_in_use()
    if mesh is None or mesh.size == 1:
        return form(q, k, v, mask)
    images: tuple[str, ...] = BATCH
    tokens: tuple[str, ...] = (CONTEXT,)
    heads: tuple[str, ...] = (TENSOR,)
    if shards(*AXES) < mesh.size:  # within `data_parallel_only`
        images, tokens, heads = AXES, (), ()
    batch, apart, head = (
        dividing(size, axes, mesh) or None
        for size, axes in zip(q.shape, (images, tokens, heads), strict=False)
    )
    spec, keys = (
        PartitionSpec(batch, apart, head),
        PartitionSpec(batch, None, head),
    )
    return jax.shard_map(
        form,
        in_specs=(spec, keys, keys, PartitionSpec(batch)),
        out_specs=spec,
        check_vma=False,  # Pallas kernels do not say what varies where
    )(q, k, v, mask)


def keep_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    """Remat policy: keeps the residuals of cuDNN's forward kernel.

    Its residual cannot be given a name, as `splash` gives its own.
    """
    return primitive.name == "dot_product_attention_fwd_wrapper"
