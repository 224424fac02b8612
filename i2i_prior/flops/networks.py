"""The networks that a config trains with, counted from one trace of its step.

The trace is of one example with one layer a network; counts of the blocks are
multiplied by the depth, so that models of all depths share a trace.
"""

import re
from dataclasses import astuple, dataclass, replace
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.flops.cache import remember
from i2i_prior.flops.trace import Part, Parts, group_parts, total, trace
from i2i_prior.models.dit_config import DiTConfig
from i2i_prior.models.functional import partition
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.inputs import example_spec
from i2i_prior.tasks.registry import make_task
from i2i_prior.tasks.resolve import Resolved, resolve

# What parts are called, where scope or parameter have another name; in the
# order of a report.
_ROWS = {
    "dit/patch_embed": "dit/patch_embed",
    "conditioner/null": "conditioner/null",
    "encoder/patch_embed": "encoder/patch_embed",
    "encoder/cls": "encoder/tokens",
    "encoder/positions": "encoder/tokens",
    "encoder/registers": "encoder/tokens",
    "encoder/norm": "encoder/norms",
    "encoder/pre_norm": "encoder/norms",
    "encoder/blocks/norm1": "encoder/blocks/norms",
    "encoder/blocks/norm2": "encoder/blocks/norms",
    "encoder/blocks/attention": "encoder/blocks/attention",
    "encoder/blocks/mlp": "encoder/blocks/mlp",
    "encoder/blocks/scale1": "encoder/blocks/scales",
    "encoder/blocks/scale2": "encoder/blocks/scales",
    "autoencoder/quant_conv": "autoencoder/encoder",
    "autoencoder/post_quant_conv": "autoencoder/decoder",
}
_ONCE_A_BATCH = "encoder/interpolate"  # of positions
# Options of a DiT that change no count. Attention as XLA's own products: the
# other forms hide theirs in kernels.
_SAME: dict[str, Any] = {
    "attention": "xla",
    "precision": "float32",
    "scan_unroll": 1,
    "mup_base_width": 0,
}


@dataclass(frozen=True)
class Network:
    """One network of a config."""

    # Its parts; `macs` are those of a training step's forward pass on one
    # example: none where prepared latents take its place
    parts: Parts
    trained: bool  # it has a backward pass

    @property
    def whole(self) -> Part:
        """Sum of its parts."""
        return total(self.parts.values())


@dataclass(frozen=True)
class Networks:
    """All networks of a config."""

    dit: DiTConfig  # the DiT's shape
    condition_tokens: int  # M, as its cross-attention sees them; 0 without one
    # "dit", and where there are such "conditioner", "encoder" and "autoencoder"
    by_name: dict[str, Network]


def networks(config: ConfigDict) -> Networks:
    """The networks of a config; no arrays are made."""
    shapes = resolve(config)
    tokens = shapes.conditioner.tokens if shapes.conditioner else 0
    parts: dict[str, Parts] = {"conditioner": {}} if shapes.conditioner else {}
    parts["dit"], depths = {}, {"dit": shapes.dit.depth}
    if shapes.encoder is not None:
        parts["encoder"], depths["encoder"] = {}, shapes.encoder.depth
    if config.autoencoder.kind != "pixels":
        parts["autoencoder"] = {"encoder": Part(), "decoder": Part()}
    key = _key(config, shapes)
    counts = remember(("parts", *key), lambda: _step_parts(config))
    for path, numbers in counts.items():
        (name, _, inner), part = path.partition("/"), Part(*numbers)
        if inner.startswith("blocks/"):
            part = part * depths[name]
        if name == "autoencoder" and not shapes.has_autoencoder:
            part = replace(part, parameters=0, frozen=0)
        parts[name][inner] = part
    trained = {"autoencoder": False, "encoder": config.encoder.kind == "joint"}
    by_name = {
        name: Network(found, trained.get(name, True))
        for name, found in parts.items()
    }
    return Networks(shapes.dit, tokens, by_name)


def recomputed_macs(config: ConfigDict) -> int:
    """Multiply-adds of one example's forward pass that remat runs again."""
    remat = config.model.remat
    if remat == "none":
        return 0
    key = _key(config, resolve(config))
    one = remember((remat, *key), lambda: _recomputed_macs(config))
    return config.model.depth * one


def _key(config: ConfigDict, shapes: Resolved) -> tuple[Any, ...]:
    """All that a trace depends on."""
    encoder, latents = shapes.encoder, shapes.latent
    return (
        replace(shapes.dit, depth=1, **_SAME),
        shapes.conditioner and replace(shapes.conditioner, mup_base_width=0),
        encoder and replace(encoder, depth=1, precision="float32"),
        latents,
        (config.data.cached, config.data.image_size, shapes.view_size),
        config.data.cached and shapes.has_autoencoder,
        (config.task, config.encoder.kind, config.conditioner.null),
        config.conditioner.concat_from,
    )


def _traced(config: ConfigDict, remat: str) -> tuple[Task, tuple[Any, ...]]:
    """Task of one layer a network, and shapes of its loss on one example."""
    config = config.copy_and_resolve_references()
    config.model.update({"depth": 1, "remat": remat, **_SAME})
    config.encoder.depth = 1
    if not config.data.cached:
        config.autoencoder.weights = "random"
    task = make_task(config)
    batch: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((1, *one.shape), one.dtype)
        for name, one in task.example_spec.items()
    }
    latents = task.shape_of(batch)
    draws = jax.eval_shape(lambda: task.draw(jax.random.key(0), latents))
    return task, (batch, draws)


def _step_parts(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    task, inputs = _traced(config, "none")
    shapes = task.functional.shapes()
    equations = trace(lambda *a: task.loss(*a)[0], shapes, *inputs)
    parts = group_parts(equations, shapes, _ROWS, task.frozen)
    parts.pop(_ONCE_A_BATCH, None)
    return {name: astuple(part) for name, part in parts.items()}


def _recomputed_macs(config: ConfigDict) -> int:
    remat = config.model.remat
    # Only the DiT is counted: where its inputs can be prepared ones, the
    # frozen networks need not be traced.
    if set(example_spec(config, resolve(config))) <= {"image", "view"}:
        config = config.copy_and_resolve_references()
        config.data.cached = True
    task, inputs = _traced(config, remat)
    trained, frozen = partition(task.functional.shapes(), task.frozen)

    def loss(trained: Any, frozen: Any, *inputs: Any) -> jax.Array:
        return task.loss({**trained, **frozen}, *inputs)[0].sum()

    return sum(
        equation.macs
        for equation in trace(jax.grad(loss), trained, frozen, *inputs)
        if re.search(r"\bdit\b.*rematted_computation", equation.scope)
    )
