"""One training step and one sampler of a Lumos model, here and in PyTorch.

Both sides run the same mathematics on the same shapes: the peer is
`tests/peers/torch_lumos.py`, the reference of the parity tests. One condition
token of 768 channels, MSE over all 8 output channels, AdamW. PyTorch gets its
fastest parts: scaled_dot_product_attention (flash, on a GPU) and the fused
AdamW.

Ours skips q and k of a cross-attention to a single token, which is exact and
which the official PyTorch code does not do; `shortcut` gives the PyTorch
programs the same.

Precisions of ours against torch's: "float32" against float32, the two with
bfloat16 operands against torch.autocast in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

CONDITION, CHANNELS = 768, 4
Run = Callable[[int], float]


@dataclass(frozen=True)
class Setting:
    """Shape, precision and options of a timed program.

    Attributes:
      depth, width, heads, patch, input_size: shape of the network.
      batch: examples a step.
      precision: of ours, a name of `layers.PRECISIONS`.
      remat, unroll: of ours, as `model.remat` and `model.scan_unroll`.
      compiled: True if the peer goes through torch.compile.
      shortcut: True if the peer skips q and k too.
      device: of the peer, cpu or cuda.
      threads: of the peer on a CPU; 0 for its own choice.
      steps, guidance: of sampling, DPM-Solver++(2M).
    """

    depth: int = 6
    width: int = 256
    heads: int = 8
    patch: int = 2
    input_size: int = 16
    batch: int = 32
    precision: str = "float32"
    remat: str = "none"
    unroll: int = 1
    compiled: bool = False
    shortcut: bool = False
    device: str = "cpu"
    threads: int = 0
    steps: int = 20
    guidance: float = 4.5

    @property
    def shape(self) -> dict[str, int]:
        """Arguments of the network."""
        names = ("depth", "width", "heads", "patch", "input_size")
        return {name: getattr(self, name) for name in names}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `settings` reads, besides --threads."""
    default = ["float32", "bfloat16_matmul"]
    parser.add_argument("--precisions", nargs="+", default=default)
    parser.add_argument("--shortcut", action="store_true")


def settings(
    options: argparse.Namespace, setting: Setting
) -> Iterator[tuple[str, dict[str, Setting]]]:
    """Precision, and the settings of ours, of PyTorch eager and compiled."""
    for precision in options.precisions:
        chosen = replace(
            setting,
            precision=precision,
            threads=options.threads,
            shortcut=options.shortcut,
        )
        compiled = replace(chosen, compiled=True)
        yield (
            precision,
            {"ours": chosen, "eager": chosen, "compile": compiled},
        )


def random_batch(setting: Setting) -> dict:
    """The batch of every program, as NumPy arrays, latents NHWC."""
    import numpy as np

    rng = np.random.default_rng(0)
    size, batch = setting.input_size, setting.batch

    def draw(*shape):
        return rng.standard_normal(shape).astype("f4")

    return {
        "x": draw(batch, size, size, CHANNELS),
        "timestep": rng.uniform(0, 999, batch).astype("f4"),
        "embedding": draw(batch, 1, CONDITION),
        "target": draw(batch, size, size, 2 * CHANNELS),
    }


def our_training(setting: Setting) -> Run:
    """Forward, backward and AdamW, compiled once, its state donated."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
    from i2i_prior.models.dit import DiT, DiTConfig
    from i2i_prior.models.precision import PRECISIONS

    config = DiTConfig(
        **setting.shape,
        one_token=True,
        precision=setting.precision,
        remat=setting.remat,
        scan_unroll=setting.unroll,
    )
    conditioning = ConditionerConfig(CONDITION, config.width)
    options = {"precision": PRECISIONS[setting.precision]}
    optimizer = optax.adamw(1e-4, weight_decay=0.01)

    def build():
        conditioner = Conditioner(conditioning, rngs=nnx.Rngs(0), **options)
        return DiT(config, rngs=nnx.Rngs(1)), conditioner

    graphdef = nnx.split(nnx.eval_shape(build), nnx.Param, ...)[0]

    def init():
        _, params, buffers = nnx.split(build(), nnx.Param, ...)
        return (params, optimizer.init(params)), buffers

    state, buffers = jax.jit(init)()

    def loss_of(params, buffers, batch):
        dit, conditioner = nnx.merge(graphdef, params, buffers)
        tokens = conditioner(batch["embedding"])
        out = dit(batch["x"], batch["timestep"], tokens)
        return jnp.square(out - batch["target"]).mean()

    def step(state, buffers, batch):
        params, moments = state
        loss, grads = jax.value_and_grad(loss_of)(params, buffers, batch)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    inputs = buffers, jax.device_put(random_batch(setting))
    jitted = jax.jit(step, donate_argnums=0)
    compiled = jitted.lower(state, *inputs).compile()

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, loss = compiled(state, *inputs)
        jax.block_until_ready(state)
        return float(loss)

    return run


def our_facts() -> dict[str, Any]:
    """Peak memory, bytes, and name of the device."""
    import jax

    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", _resident())
    return {"peak_bytes": peak, "device": device.device_kind}


def torch_facts() -> dict[str, Any]:
    """Peak memory, bytes, and name of the device, as PyTorch counts."""
    import torch

    if not torch.cuda.is_available():
        return {"peak_bytes": _resident(), "device": "cpu"}
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "device": torch.cuda.get_device_name(),
    }


def _resident() -> int:
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def torch_model(setting: Setting) -> Any:
    """The module, and it or its compiled form, on the setting's device."""
    import torch

    from tests.peers.torch_lumos import TorchLumos

    if setting.threads:
        torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = TorchLumos(
            **setting.shape,
            condition_width=CONDITION,
            shortcut=setting.shortcut,
        )
    return model, torch.compile(model) if setting.compiled else model


@contextlib.contextmanager
def torch_fast(setting: Setting):
    """Context of autocast, and on a GPU of flash attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with contextlib.ExitStack() as stack:
        half = setting.precision != "float32"
        stack.enter_context(
            torch.autocast(setting.device, torch.bfloat16, enabled=half)
        )
        if half and setting.device == "cuda":
            stack.enter_context(sdpa_kernel(SDPBackend.FLASH_ATTENTION))
        yield


def torch_training(setting: Setting) -> Run:
    """Forward, backward and AdamW in PyTorch."""
    import torch

    model, call = torch_model(setting)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, weight_decay=0.01, fused=True
    )
    batch = {
        name: torch.from_numpy(array).to(setting.device)
        for name, array in random_batch(setting).items()
    }
    x = batch["x"].permute(0, 3, 1, 2).contiguous()
    target = batch["target"].permute(0, 3, 1, 2).contiguous()

    def run(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch_fast(setting):
                out = call(x, batch["timestep"], batch["embedding"])
            loss = torch.nn.functional.mse_loss(out.float(), target)
            loss.backward()
            optimizer.step()
        return loss.item()  # waits

    return run
