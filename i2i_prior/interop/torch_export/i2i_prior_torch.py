"""Image-to-image prior in plain PyTorch: this file and its folder.

    from i2i_prior_torch import Prior

    prior = Prior.from_pretrained("FOLDER")
    images = prior.vary(["cat.png"], num=4)  # uint8 (1, 4, H, W, 3)

Needs torch and safetensors; Pillow only for images given as paths. The folder
holds `model.safetensors`, and `config.json` with the run's fields by dotted
name and, under `modules`, the configs of its networks. Latents are NCHW,
images uint8 NHWC. Results equal those of the JAX code of i2i_prior up to
float32 rounding.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn

FORMAT = "i2i_prior/torch"
FORMAT_VERSION = 1

# --- Parts ------------------------------------------------------------------


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis, without gain and bias."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rms_norm(x: Tensor) -> Tensor:
    """RMSNorm over the last axis, without gain."""
    mean_square = x.float().square().mean(-1, keepdim=True)
    return (x.float() * torch.rsqrt(mean_square + 1e-6)).to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm over the last axis, with a gain."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x) * self.weight


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Modulation x (B, N, D) * (1 + scale) + shift, both (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation."""
    return F.gelu(x, approximate="tanh")


class Mlp(nn.Module):
    """MLP of two linear layers."""

    def __init__(self, inputs, hidden, outputs, activation=gelu_tanh):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class NumberMlp(Mlp):
    """Embedding of numbers (B,) in (B, width), by sinusoids and an MLP.

    There are 256 sinusoids, with periods up to 2 pi 10,000.
    """

    def __init__(self, width: int):
        super().__init__(256, width, width, F.silu)

    def forward(self, x: Tensor) -> Tensor:
        k = torch.arange(128, dtype=torch.float64, device=x.device)
        frequencies = torch.exp(-math.log(10_000) * k / 128).float()
        angles = x.float()[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return super().forward(waves.to(self.fc1.weight.dtype))


class SwiGlu(nn.Module):
    """SwiGLU W2 (silu(W1 x) * (V x)), W1 and V fused (2002.05202, Eq. 6)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_value = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


def attend(q: Tensor, k: Tensor, v: Tensor, mask=None) -> Tensor:
    """Attention softmax(q k^T / sqrt(d)) v, (B, N, heads d).

    q, k and v are (B, N, heads, d); mask, bool (B, N), has the keys that count.
    """
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    rows = None if mask is None else mask.bool()[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=rows)
    return out.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; rows of the fused weight are [q | k | v]."""

    def __init__(self, width: int, heads: int, norm=None, bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.q_norm = norm(width // heads) if norm else nn.Identity()
        self.k_norm = norm(width // heads) if norm else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return self.out(attend(q, k, v))


class CrossAttention(nn.Module):
    """Queries from the image tokens, keys and values from the condition."""

    def __init__(self, width, heads, norm=None, bias=True, one_token=False):
        super().__init__()
        self.heads, self.one_token = heads, one_token
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.q_norm = norm(width // heads) if norm else nn.Identity()
        self.k_norm = norm(width // heads) if norm else nn.Identity()

    def forward(self, x: Tensor, tokens: Tensor, mask=None) -> Tensor:
        # A softmax over one key is 1, whatever q and k are.
        if self.one_token and tokens.shape[1] == 1 and mask is None:
            return self.out(self.v(tokens))
        q, k, v = (
            a.unflatten(-1, (self.heads, -1))
            for a in (self.q(x), self.k(tokens), self.v(tokens))
        )
        return self.out(attend(self.q_norm(q), self.k_norm(k), v, mask))


# --- Patches and positions --------------------------------------------------


def patchify(x: Tensor, patch: int) -> Tensor:
    """Splits (B, C, H, W) into patches (B, H/p * W/p, p * p * C).

    Patches are row-major, channels in the order (p, q, c).
    """
    split = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Inverts `patchify`."""
    split = tokens.unflatten(1, grid).unflatten(3, (patch, patch, -1))
    return split.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def places(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of all cells of a grid, row-major, each (h * w,)."""
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0].flatten(), grid[1].flatten()


def sincos(width: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Sin-cos table of a grid, float32 (h * w, width), columns first."""
    k = torch.arange(width // 4, dtype=torch.float64)
    omega = 1.0 / 10_000 ** (k / (width / 4))
    rows, columns = places(rows, columns)
    waves = []
    for position in (columns, rows):
        angles = position.double()[:, None] * omega
        waves += [angles.sin(), angles.cos()]
    return torch.cat(waves, dim=1).float()


@functools.lru_cache(maxsize=32)
def image_positions(width, grid, base: int, scale: float) -> Tensor:
    """Sin-cos table of image tokens, in units of a base x base grid."""
    return sincos(width, *(torch.arange(n) / (n / base) / scale for n in grid))


@functools.lru_cache(maxsize=32)
def rotary_angles(head_width: int, grid: tuple[int, int]) -> Tensor:
    """Angles of axial RoPE, (h * w, head_width // 2).

    The first half of the channel pairs rotates with the row, the second with
    the column (arXiv 2403.13298 section 3.2).
    """
    pairs = head_width // 4
    k = torch.arange(pairs, dtype=torch.float64)
    omega = 1.0 / 10_000 ** (k / max(pairs, 1))
    lines = places(*(torch.arange(n) for n in grid))
    angles = torch.cat([line[:, None] * omega for line in lines], dim=1)
    return F.pad(angles, (0, head_width // 2 - angles.shape[1])).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel pairs (i, i + d / 2) of x (B, N, heads, d)."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


# --- The diffusion transformer ----------------------------------------------


class Block(nn.Module):
    """Self-attention, cross-attention and MLP, modulated by the time.

    lumos, dit: LayerNorms, shift, scale and gate from a linear map of the
    time; the cross-attention has neither norm nor gate. pixart: all blocks
    have one map (`time` is its output, 6 D wide), and each adds a table.
    modern: RMSNorm, SwiGLU, RoPE, QK-norm; the cross-attention is modulated
    and gated too.
    """

    def __init__(self, dit: dict[str, Any]):
        super().__init__()
        width, heads = dit["width"], dit["heads"]
        self.kind, cross = dit["block"], dit["cross_attention"]
        modern = self.kind == "modern"
        self.parts = 9 if modern and cross else 6
        if self.kind == "pixart":
            self.table = nn.Parameter(torch.zeros(6, width))
        else:
            self.modulation = nn.Linear(width, self.parts * width)
        norm: Any = RMSNorm if modern else None
        affine = functools.partial(nn.LayerNorm, eps=1e-5)
        self_norm = affine if dit["qk_norm"] and not modern else norm
        self.attention = SelfAttention(width, heads, self_norm, not modern)
        self.cross_attention: nn.Module | None = None
        if cross:
            self.cross_attention = CrossAttention(
                width, heads, norm, not modern, dit["one_token"]
            )
        hidden = dit["mlp_ratio"] * width
        # Two thirds keep the parameter count of a plain MLP.
        narrow = 16 * round(hidden * 2 / 3 / 16)
        self.mlp = (
            SwiGlu(width, narrow) if modern else Mlp(width, int(hidden), width)
        )
        self.norm = rms_norm if modern else layer_norm

    def forward(self, h, time, tokens, mask, angles) -> Tensor:
        """Updates h (B, N, D); time (B, D), tokens (B, M, D), mask (B, M)."""
        if self.kind == "pixart":
            modulation = time + self.table.flatten()
        else:
            modulation = self.modulation(F.silu(time))
        m = modulation.chunk(self.parts, dim=-1)
        x = modulate(self.norm(h), m[0], m[1])
        h = h + m[2][:, None] * self.attention(x, angles)
        if self.cross_attention is not None and self.kind == "modern":
            x = modulate(self.norm(h), m[6], m[7])
            h = h + m[8][:, None] * self.cross_attention(x, tokens, mask)
        elif self.cross_attention is not None:
            h = h + self.cross_attention(h, tokens, mask)
        x = modulate(self.norm(h), m[3], m[4])
        return h + m[5][:, None] * self.mlp(x)


class FinalLayer(nn.Module):
    """Modulated norm and linear map to patches.

    lumos, pixart: shift and scale are a table + the raw time embedding;
    dit, modern: a linear map of its silu.
    """

    def __init__(self, block: str, width: int, outputs: int):
        super().__init__()
        self.raw = block in ("lumos", "pixart")
        if self.raw:
            self.shift_scale = nn.Parameter(torch.zeros(2, width))
        else:
            self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, outputs)
        self.norm = rms_norm if block == "modern" else layer_norm

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        if self.raw:
            shift, scale = (row + time for row in self.shift_scale)
        else:
            shift, scale = self.modulation(F.silu(time)).chunk(2, dim=-1)
        return self.out(modulate(self.norm(h), shift, scale))


class ClassTable(nn.Module):
    """Embedding of class labels or class weights; the last row is the null."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, width))

    def forward(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point():
            return labels.to(self.table.dtype) @ self.table
        return self.table[labels.flatten()]


class DiT(nn.Module):
    """Diffusion transformer: noise, data or velocity of a noisy latent."""

    def __init__(self, dit: dict[str, Any]):
        super().__init__()
        width, patch, block = dit["width"], dit["patch"], dit["block"]
        inputs = patch**2 * (dit["channels"] + dit["concat_channels"])
        outputs = patch**2 * dit["channels"] * (2 if dit["learn_sigma"] else 1)
        self.patch_embed = nn.Linear(inputs, width)
        self.time_embed = nn.ModuleDict({"mlp": NumberMlp(width)})
        self.pooled_embed: nn.Module | None = None
        if dit["classes"]:
            self.pooled_embed = ClassTable(dit["classes"] + 1, width)
        elif dit["pooled_width"]:
            self.pooled_embed = Mlp(dit["pooled_width"], width, width, F.silu)
        if dit["size_conditions"]:
            third = width // 3
            self.size_embed = nn.ModuleDict(
                {"size": NumberMlp(third), "aspect": NumberMlp(third)}
            )
        if block == "pixart":
            self.time_modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(dit) for _ in range(dit["depth"]))
        self.final = FinalLayer(block, width, outputs)
        self.config = dit

    def forward(
        self,
        x_t: Tensor,
        timestep: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
        concat: Tensor | None = None,
        size: Tensor | None = None,
        aspect: Tensor | None = None,
    ) -> Tensor:
        """Predicts as `Prior.predict`, from projected tokens (B, M, D)."""
        dit, dtype = self.config, self.patch_embed.weight.dtype
        for name, value, expected in (
            ("tokens", tokens, dit["cross_attention"]),
            ("pooled", pooled, dit["classes"] or dit["pooled_width"]),
            ("concat", concat, dit["concat_channels"]),
            ("size", size, dit["size_conditions"]),
            ("aspect", aspect, dit["size_conditions"]),
        ):
            if (value is not None) != bool(expected):
                verb = "needs" if expected else "does not take"
                raise ValueError(f"this model {verb} the condition {name}")
        x = x_t if concat is None else torch.cat([x_t, concat], dim=1)
        patch, width = dit["patch"], dit["width"]
        grid = (x.shape[2] // patch, x.shape[3] // patch)
        base = dit["base_size"] or dit["input_size"] // patch
        table = image_positions(width, grid, base, dit["position_scale"])
        h = self.patch_embed(patchify(x.to(dtype), patch))
        h = h + table.to(h)
        angles = None
        if dit["block"] == "modern":
            angles = rotary_angles(width // dit["heads"], grid).to(h.device)
        time = self.time_embed["mlp"](timestep)
        if pooled is not None and self.pooled_embed is not None:
            numbers = pooled if dit["classes"] else pooled.to(dtype)
            time = time + self.pooled_embed(numbers)
        if size is not None and aspect is not None:
            height_width = self.size_embed["size"](size.flatten())
            ratio = self.size_embed["aspect"](aspect.flatten())
            parts = [height_width.reshape(len(x), -1), ratio]
            time = time + torch.cat(parts, dim=-1)
        modulation = time
        if dit["block"] == "pixart":
            modulation = self.time_modulation(F.silu(time))
        for block in self.blocks:
            h = block(h, modulation, tokens, mask, angles)
        return unpatchify(self.final(h, time), grid, patch).float()


# --- From an image to condition tokens --------------------------------------


class EncoderBlock(nn.Module):
    """Pre-norm block: attention, then an MLP with exact GELU."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden, width, F.gelu)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norm1(h))
        return h + self.mlp(self.norm2(h))


class Encoder(nn.Module):
    """Vision transformer with a CLS token, as in DINO v1."""

    def __init__(self, vit: dict[str, Any]):
        super().__init__()
        width, self.patch = vit["width"], vit["patch"]
        tokens = (vit["image_size"] // self.patch) ** 2
        self.patch_embed = nn.Linear(3 * self.patch**2, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, vit["heads"], vit["hidden"])
            for _ in range(vit["depth"])
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes pixels (B, 3, V, V) as CLS (B, C) and patches (B, N, C)."""
        h = self.patch_embed(patchify(pixels, self.patch))
        h = torch.cat([self.cls.expand(len(h), -1, -1), h], dim=1)
        h = h + self.positions
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        return h[:, 0], h[:, 1:]


PYRAMID = (1, 2, 4)  # sides of the averaged patch grids


class Conditioner(nn.Module):
    """Selection, normalisation and projection of embeddings to tokens."""

    def __init__(self, conditioner: dict[str, Any]):
        super().__init__()
        self.config = c = conditioner
        inputs, width = c["embedding_width"], c["width"]
        self.null: nn.Parameter | None = None  # stands for "no condition"
        if c["null"] != "given":
            self.null = nn.Parameter(torch.zeros(c["embeddings"], inputs))
        if c["expand"] > 1:
            self.expand = nn.Linear(inputs, c["expand"] * inputs)
        self.project = Mlp(inputs, width, width)

    def choose(self, cls: Tensor, patches: Tensor) -> Tensor:
        """Selects and normalises encoder features, float32 (B, M0, C)."""
        chosen, kind = patches, self.config["tokens_from"]
        if kind == "cls":
            chosen = cls[:, None]
        elif kind == "pyramid":
            side = round(patches.shape[1] ** 0.5)
            image = patches.mT.unflatten(2, (side, side))
            levels = [F.adaptive_avg_pool2d(image, n) for n in PYRAMID]
            chosen = torch.cat([level.flatten(2) for level in levels], 2).mT
        chosen = chosen.float()
        if self.config["normalize"]:
            chosen = F.normalize(chosen, dim=-1, eps=1e-12)
        return chosen * self.config["scale"]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Projects embeddings (B, M0, C) to condition tokens (B, M, D)."""
        h = embeddings.to(self.project.fc1.weight.dtype)
        if self.config["expand"] > 1:
            h = self.expand(h).reshape(len(h), -1, h.shape[-1])
        tokens = self.project(h)
        c = self.config
        grids = {"patches": (round(c["patches"] ** 0.5),), "pyramid": PYRAMID}
        if c["grid"] and c["tokens_from"] in grids:
            tokens = tokens + self.positions(grids[c["tokens_from"]]).to(tokens)
        return tokens

    def positions(self, sides: Sequence[int]) -> Tensor:
        """Sin-cos table at the centres of the patches or cells, (M, D)."""
        c, tables = self.config, []
        for side in sides:
            cells = torch.arange(side, dtype=torch.float64) + 0.5
            centres = cells * c["grid"] / side - 0.5
            tables.append(sincos(c["width"], centres, centres))
        return torch.cat(tables).repeat_interleave(c["expand"], dim=0)


# --- Diffusion --------------------------------------------------------------

# name -> order, and True if it ends at t = 1 / N on ddpm paths
SOLVERS = {
    "dpmpp_2m": (2, True),
    "dpmpp_1s": (1, True),
    "ddim": (1, False),
    "euler": (1, False),
    "heun": (2, False),
}
# A noise prediction does not determine the data at alpha = 0: with one,
# sampling starts at this lambda = log(alpha / sigma).
EPS_SMALLEST_LAMBDA = -5.1
N = 1000  # steps of the ddpm paths


class NoisePath:
    """Path x_t = alpha(t) x0 + sigma(t) noise from data, t = 0, to t = 1.

    flow: alpha = 1 - t, sigma = t. ddpm_linear, ddpm_cosine: tables of N
    betas, entry n at t = (n + 1) / N, and log alpha linear between them.
    """

    def __init__(self, name: str, shift: float = 1.0):
        self.shift, self.discrete = shift, name != "flow"
        exact: Any = {"dtype": torch.float64, "device": "cpu"}
        betas = torch.linspace(1e-4, 2e-2, N, **exact)
        if name == "ddpm_cosine":
            t = torch.arange(N + 1, **exact) / N
            signal = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        log_alphas = 0.5 * torch.log1p(-betas).cumsum(0)
        self.log_alphas = [0.0, *log_alphas.tolist()]

    def factors(self, t: float) -> tuple[float, float]:
        """Returns alpha and sigma at time t."""
        if not self.discrete:
            return 1.0 - t, t
        low = min(math.floor(t * N), N - 1)
        below, above = self.log_alphas[low : low + 2]
        log_alpha = below + (t * N - low) * (above - below)
        return math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha))

    def log_ratio(self, t: float) -> float:
        """Returns lambda = log(alpha / sigma), for t > 0."""
        alpha, sigma = self.factors(t)
        return math.log(alpha / sigma) if alpha else -math.inf

    def start(self, prediction: str) -> float:
        """Returns the start time of sampling."""
        low, high = 0.5, 1.0
        if prediction != "eps" or self.log_ratio(high) >= EPS_SMALLEST_LAMBDA:
            return high
        for _ in range(60):  # bisection: lambda falls with time
            middle = (low + high) / 2
            below = self.log_ratio(middle) < EPS_SMALLEST_LAMBDA
            low, high = (low, middle) if below else (middle, high)
        return low

    def grid(self, steps: int, start: float, to_t_min: bool) -> list[float]:
        """Returns steps + 1 descending times of a sampler.

        flow: even from 1 to 0, then shifted. ddpm: even down to 1 / N in
        `steps` steps; or in one less, and then 0.
        """
        if not self.discrete:
            s, even = self.shift, [1 - i / steps for i in range(steps + 1)]
            return [start * s * t / (1 + (s - 1) * t) for t in even]
        parts = steps if to_t_min else max(steps - 1, 1)
        times = [start + (1 / N - start) * i / parts for i in range(parts + 1)]
        return times if to_t_min else [*times[:steps], 0.0]


def to_x0(value, x, alpha: float, sigma: float, prediction: str) -> Tensor:
    """Converts a prediction to x0."""
    if prediction == "x0":
        return value
    if prediction == "eps":
        return (x - sigma * value) / max(alpha, 1e-6)
    if prediction == "v":  # alpha eps - sigma x0
        return (alpha * x - sigma * value) / (alpha**2 + sigma**2)
    return (x - sigma * value) / (alpha + sigma)  # velocity: eps - x0


def integrate(
    predict: Callable[[Tensor, float], Tensor],
    x: Tensor,
    path: NoisePath,
    *,
    prediction: str,
    solver: str,
    steps: int,
    lower_order_final: bool,
    clip: float,
) -> Tensor:
    """Integrates from noise to data by DPM-Solver++ of order 1 (DDIM) or 2.

    A step from t to s gives sigma_s / sigma_t x + alpha_s (1 - e^-h) D. h is
    the step in lambda, and D the estimate of x0, in order 2 extrapolated
    from the one before (arXiv 2211.01095, Alg. 2). A step to sigma = 0, and
    with `lower_order_final` the last one, is of order 1.
    """
    if solver not in SOLVERS or steps < 1:
        raise ValueError(
            f"solver {solver!r} with {steps} steps is not supported; use one "
            f"of {', '.join(SOLVERS)} with 1 step or more"
        )
    order, to_t_min = SOLVERS[solver]
    times = path.grid(steps, path.start(prediction), to_t_min)

    def estimate_x0(x: Tensor, t: float) -> Tensor:
        x0 = to_x0(predict(x, t), x, *path.factors(t), prediction)
        return x0.clamp(-clip, clip) if clip else x0

    before, x0_before = 1.0, None
    for now, after in itertools.pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = map(path.factors, (now, after))
        x0 = estimate = estimate_x0(x, now)
        if solver == "heun":  # the trapezium rule on dx = x0 d(a) + eps d(s)
            eps = (x - alpha * x0) / sigma
            end = alpha_s * x0 + sigma_s * eps
            if sigma_s == 0:
                return end
            x0_s = estimate_x0(end, after)
            toward_x0 = (alpha_s - alpha) * (x0 + x0_s)
            eps_s = (end - alpha_s * x0_s) / sigma_s
            x = x + 0.5 * (toward_x0 + (sigma_s - sigma) * (eps + eps_s))
            continue
        first_order = sigma_s == 0 or (lower_order_final and after == times[-1])
        if order == 2 and x0_before is not None and not first_order:
            first, second, third = map(path.log_ratio, (before, now, after))
            weight = 0.5 * (third - second) / (second - first)
            estimate = x0 + weight * (x0 - x0_before)
        ratio = sigma_s / sigma
        x = ratio * x + (alpha_s - alpha * ratio) * estimate
        before, x0_before = now, x0
    return x


# Fields of earlier folders -> their names in this file.
RENAMED = {
    "conditioner.choice": "conditioner.tokens_from",
    "diffusion.convention": "diffusion.time_convention",
    "choice": "tokens_from",  # of modules/conditioner
}


def with_new_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Renames fields of an earlier config.json."""
    return {RENAMED.get(name, name): value for name, value in fields.items()}


# --- The prior --------------------------------------------------------------


class Prior(nn.Module):
    """Trained prior: embed, vary, interpolate, predict, sample."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config, modules = config, config["modules"]
        self.path = NoisePath(
            config["diffusion.path"], config["diffusion.shift"]
        )
        self.dit = DiT(modules["dit"])
        conditioner, vit = modules["conditioner"], modules["encoder"]
        self.conditioner = Conditioner(conditioner) if conditioner else None
        ours = vit is not None and vit["family"] == "dino"
        self.encoder = Encoder(vit) if ours else None
        self.autoencoder: Any = None  # diffusers' AutoencoderKL

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Prior:
        """Opens a folder of `i2i-prior export --format torch`.

        An AutoencoderKL of diffusers in its folder `autoencoder` decodes the
        latents. Raises ValueError for a folder of another format.
        """
        folder = Path(folder)
        text = (folder / "config.json").read_text("utf-8")
        config = json.loads(text, object_hook=with_new_names)
        found = (config.get("format"), config.get("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            raise ValueError(
                f"{folder} has format {found}, not {FORMAT, FORMAT_VERSION}: "
                "use the i2i_prior_torch.py in it"
            )
        with torch.device("meta"):
            prior = cls(config)
        # The file may hold networks that have no code here.
        others = ("autoencoder.", *(() if prior.encoder else ("encoder.",)))
        state = load_file(folder / "model.safetensors")
        state = {k: v for k, v in state.items() if not k.startswith(others)}
        prior.load_state_dict(state, assign=True)
        file = folder / "autoencoder" / "config.json"
        if file.is_file() and '"AutoencoderKL"' in file.read_text("utf-8"):
            from diffusers import AutoencoderKL

            prior.autoencoder = AutoencoderKL.from_pretrained(file.parent)
        return prior.eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.dit.patch_embed.weight.device

    def predict(self, x_t, timestep, tokens=None, **conditions) -> Tensor:
        """Returns the raw output, float32 (B, C, H, W), 2C with variances.

        Args:
          x_t: noisy latent, float (B, C, H, W).
          timestep: float (B,); `network` derives it from a time in [0, 1].
          tokens: embeddings (B, M0, C_e) of `embed`.
          conditions: further ones of the model. mask bool (B, M), true where
            a condition token counts; pooled vectors (B, P), or class labels
            int (B,); concat (B, K, H, W); size (B, 2), height and width in
            pixels, with aspect (B, 1), their ratio.
        """
        return self.dit(x_t, timestep, self._project(tokens), **conditions)

    forward = predict

    def _project(self, tokens: Tensor | None) -> Tensor | None:
        if tokens is None or self.conditioner is None:
            return tokens
        return self.conditioner(tokens)

    def network(self, x_t: Tensor, t: float, **conditions) -> Tensor:
        """Evaluates the DiT at path time t in [0, 1].

        The weights' time convention is native: the network is given 1000 t,
        on ddpm paths less 1, so 0..999; repa: t; or sit: 1 - t, and it
        predicts data - noise.
        """
        time = torch.full((len(x_t),), t, device=x_t.device)
        convention = self.config.get("diffusion.time_convention")
        if convention in (None, "", "native", "own"):  # own: its former name
            time = 1000 * time - int(self.path.discrete)
        elif convention == "sit":
            time = 1 - time
        output = self.dit(x_t, time, **conditions)
        output = output[:, : self.dit.config["channels"]]  # no variances
        return -output if convention == "sit" else output

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        tokens: Tensor | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        lower_order_final: bool | None = None,
        null_tokens: Tensor | None = None,
        null_mask: Tensor | str | None = None,
        **conditions,
    ) -> Tensor:
        """Samples latents from given noise, float32 (B, C, H, W).

        Args:
          noise: standard normal, (B, C, H, W).
          tokens, conditions: as in `predict`.
          steps, guidance, solver, lower_order_final: the run's own if None;
            solvers are `SOLVERS`, guidance 1 is none.
          null_tokens: (M0, C_e), for a model without its own.
          null_mask: bool (B, M) of the half without condition, or its rule:
            "full", all null tokens count; "caption", as many as the caption
            has.
        """

        def chosen(name: str, given: Any = None) -> Any:
            return self.config[f"sample.{name}"] if given is None else given

        scale, steps = chosen("guidance", guidance), chosen("steps", steps)
        if lower_order_final is None:
            # The official text-to-image samplers take one below 10 steps.
            text = self.config["conditioner.tokens_from"] == "tokens"
            lower_order_final = chosen("lower_order_final") or (
                text and steps < 10
            )
        low, high = chosen("guidance_low"), chosen("guidance_high")
        inputs = {"tokens": self._project(tokens), **conditions}
        if scale != 1:
            seen = chosen("null_mask", null_mask)
            inputs = self._with_null(inputs, tokens, null_tokens, seen)

        def predict(x: Tensor, t: float) -> Tensor:
            if scale == 1:
                return self.network(x, t, **inputs)
            both = self.network(torch.cat([x, x]), t, **inputs)
            cond, uncond = both.chunk(2)
            # Compared in float32, as in the JAX code.
            first, now, last = torch.tensor([low, t, high]).tolist()
            here = scale if first <= now <= last else 1.0
            return cond + (here - 1) * (cond - uncond)

        return integrate(
            predict,
            noise.float(),
            self.path,
            prediction=self.config["diffusion.prediction"],
            solver=chosen("solver", solver),
            steps=steps,
            lower_order_final=lower_order_final,
            clip=chosen("clip"),
        )

    def _with_null(self, inputs, tokens, null, null_mask) -> dict[str, Any]:
        """Returns both halves of classifier-free guidance in a batch of 2 B."""
        given = {k: v for k, v in inputs.items() if v is not None}
        both = {k: torch.cat([v, v]) for k, v in given.items()}
        if "concat" in given:  # its null is zero
            source = given["concat"]
            both["concat"] = torch.cat([source, torch.zeros_like(source)])
        if tokens is not None and self.conditioner is not None:
            null = self.conditioner.null if null is None else null
            if null is None or null.shape[-2] != tokens.shape[1]:
                raise ValueError(
                    f"guidance needs {tokens.shape[1]} null tokens, as many "
                    "as tokens: pad the tokens and give a mask, or give "
                    "null_tokens, or sample with guidance=1"
                )
            null = self.conditioner(null.expand(len(tokens), -1, -1))
            both["tokens"] = torch.cat([given["tokens"], null])
        if "mask" in given or isinstance(null_mask, Tensor):
            shape, device = given["tokens"].shape[:2], self.device
            everything = torch.ones(shape, dtype=torch.bool, device=device)
            mask = given.get("mask", everything).bool()
            if isinstance(null_mask, str):
                null_mask = everything if null_mask == "full" else mask
            null_mask = null_mask.bool().expand(shape)
            both["mask"] = torch.cat([mask, null_mask])
        if "pooled" in given:
            classes, pooled = self.dit.config["classes"], given["pooled"]
            if not classes:
                raise ValueError(
                    "a pooled vector has no null condition: sample with "
                    "guidance=1"
                )
            null = torch.full_like(pooled, classes)
            if pooled.is_floating_point():  # weights of the classes
                null = torch.zeros_like(pooled)
                null[:, classes] = 1
            both["pooled"] = torch.cat([pooled, null])
        return both

    @torch.no_grad()
    def embed(self, images: Sequence[Any]) -> Tensor:
        """Embeds images, paths or uint8 (H, W, 3), in float32 (B, M0, C_e)."""
        vit = self.config["modules"]["encoder"]
        if self.encoder is None or self.conditioner is None:
            family = vit["family"] if vit else "none"
            raise ValueError(
                f"the prior's image encoder is {family}, which this file "
                "cannot run: make the tokens with its own torch code and give "
                "them to predict or sample"
            )
        published = self.config["encoder.pixels"] != "symmetric"
        make = functools.partial(view, size=vit["image_size"], dino=published)
        views = torch.stack([make(open_image(image)) for image in images])
        pixels = views.to(self.device).permute(0, 3, 1, 2).float() / 255
        mean = pixels.new_tensor((0.485, 0.456, 0.406) if published else 0.5)
        std = pixels.new_tensor((0.229, 0.224, 0.225) if published else 0.5)
        pixels = (pixels - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
        dtype = self.encoder.patch_embed.weight.dtype
        return self.conditioner.choose(*self.encoder(pixels.to(dtype)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents (B, C, H, W) to images uint8 (B, S, S, 3)."""
        kind = self.config["autoencoder.kind"]
        if kind != "pixels":
            if self.autoencoder is None:
                raise ValueError(
                    f"these are {kind} latents: decode them with that "
                    "autoencoder, or put an AutoencoderKL of diffusers into "
                    "the folder as autoencoder/"
                )
            latent = self.config["modules"]["latent"]
            scale = latents.new_tensor(latent["scale"]).reshape(-1, 1, 1)
            shift = latents.new_tensor(latent["shift"]).reshape(-1, 1, 1)
            raw = (latents / scale + shift).to(self.autoencoder.dtype)
            latents = self.autoencoder.decode(raw).sample.float()
        images = (latents * 127.5 + 127.5).round().clamp(0, 255)
        return images.to(torch.uint8).permute(0, 2, 3, 1)

    def vary(
        self, images, num=8, *, seed=0, batch_size=64, **options
    ) -> Tensor:
        """Generates variations, uint8 (len(images), num, S, S, 3).

        Args:
          images: paths, or uint8 (H, W, 3) arrays or tensors.
          num: variations of each. Variation k of image i draws from (seed,
            i * num + k): it is the same in any batch and on any device. (The
            JAX code has another generator, so its images differ.)
          batch_size: images generated at once.
          options: steps, guidance, solver ... of `sample`.
        """
        tokens = self.embed(images).repeat_interleave(num, dim=0)
        decoded = []
        for rows in torch.arange(len(tokens)).split(batch_size):
            noise = self._noise(seed, rows.tolist())
            latents = self.sample(noise, tokens[rows], **options)
            decoded.append(self.decode(latents))
        return torch.cat(decoded).unflatten(0, (len(images), num))

    def interpolate(self, start, end, frames=12, *, seed=0, **options):
        """Interpolates between two images, uint8 (frames, S, S, 3).

        The embedding is interpolated linearly, with one noise for all frames;
        `options` as in `vary`.
        """
        first, last = self.embed([start, end])
        weights = torch.linspace(0, 1, frames, device=self.device)
        walk = torch.lerp(first, last, weights[:, None, None])
        noise = self._noise(seed, [0] * frames)
        return self.decode(self.sample(noise, walk, **options))

    def _noise(self, seed: int, indices: list[int]) -> Tensor:
        dit, draws = self.dit.config, []
        side, channels = dit["input_size"], dit["channels"]
        for index in indices:
            # On the CPU, so that it is the same everywhere.
            generator = torch.Generator("cpu")
            generator.manual_seed((seed * 1_000_003 + index) % 2**32)
            empty = torch.empty(channels, side, side, device="cpu")
            draws.append(empty.normal_(generator=generator))
        return torch.stack(draws).to(self.device)


def open_image(image: Any) -> Tensor:
    """Opens a path, an array or a tensor as uint8 (H, W, 3)."""
    if not isinstance(image, str | Path):
        image = torch.as_tensor(image)
        if image.dtype != torch.uint8 or image.shape[2:] != (3,):
            found = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"an image is uint8 (H, W, 3), not {found}")
        return image
    from PIL import Image, ImageOps

    with Image.open(image) as file:
        upright = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")
    rgb = Image.alpha_composite(white, upright).convert("RGB")
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return pixels.reshape(rgb.height, rgb.width, 3)


def view(image: Tensor, size: int, dino: bool) -> Tensor:
    """Crops the centre as the encoder's input, uint8 (size, size, 3).

    The central square is resized; for DINO, the shorter side is resized and
    then the centre cropped. With antialias, as in Pillow.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    shape = (size * height // side, size * width // side)
    if not dino:
        top, left = (height - side) // 2, (width - side) // 2
        image, shape = image[top:, left:][:side, :side], (size, size)
    pixels = image.permute(2, 0, 1)
    if shape != image.shape[:2]:
        mode = "bilinear" if dino else "bicubic"
        # One axis after the other, rounded in between, as Pillow does it.
        for step in ((image.shape[0], shape[1]), shape):
            pixels = F.interpolate(
                pixels[None].float(), step, mode=mode, antialias=True
            )[0]
            pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    top, left = (round((n - size) / 2) for n in shape)
    return pixels[:, top:, left:][:, :size, :size].permute(1, 2, 0)
