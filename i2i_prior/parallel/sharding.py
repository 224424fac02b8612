"""Shardings of parameters, at rest and in use: ZeRO-3 and tensor parallelism.

Parameters are a flat dict name -> array. The role of a name (`roles`) decides
the sharding of a parameter, its EMA and its Adam moments. A leading layer
axis is never sharded. Parameters are gathered right before use (`gather`), one
layer at a time, and gradients scattered right after: ZeRO-3 (arXiv 1910.02054
section 5.3), as explicit constraints and not left to the compiler.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from i2i_prior.errors import UserError
from i2i_prior.parallel.constraints import dividing, mesh_in_use
from i2i_prior.parallel.mesh import CONTEXT, FSDP, TENSOR
from i2i_prior.parallel.roles import role_of

# Axes that shard a parameter at rest and that its use gathers.
ZERO = (FSDP, CONTEXT)
ALL = (*ZERO, TENSOR)
GATHERED = "gathered kernel"  # the name that remat policies know


def partition_spec(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    in_use: bool = False,
) -> PartitionSpec:
    """Spec of one parameter, at rest or in use.

    ZeRO shards a kernel's other dimension where more of its axes divide that
    one; axes that divide neither do not shard it.
    """
    role = role_of(name)
    zero, tensor = role.zero, role.tensor
    spec: list[Any] = [None] * len(shape)
    if zero is None or len(shape) < 2:
        return PartitionSpec(*spec)
    last = len(shape) - 2
    if tensor is not None and shape[last + tensor] % mesh.shape[TENSOR] == 0:
        spec[last + tensor] = TENSOR
    if not (in_use and role.gathered):
        axes, place = max(
            (
                _zero_axes(shape, last + place, spec, tensor, mesh)
                for place in (zero, 1 - zero)[: 1 + name.endswith("kernel")]
            ),
            key=lambda found: _size(found[0], mesh),
        )
        if axes:
            there = (spec[place],) if spec[place] else ()
            spec[place] = (*there, *axes)
    return PartitionSpec(
        *[
            axes[0] if isinstance(axes, tuple) and len(axes) == 1 else axes
            for axes in spec
        ]
    )


def _zero_axes(
    shape: tuple[int, ...],
    place: int,
    spec: list[Any],
    tensor: int | None,
    mesh: Mesh | AbstractMesh,
) -> tuple[tuple[str, ...], int]:
    """The ZeRO axes that dimension `place` can take, and `place`."""
    taken = (spec[place],) if spec[place] else ()
    axes = ALL if tensor is None else ZERO
    return dividing(shape[place] // _size(taken, mesh), axes, mesh), place


def _size(axes: tuple[str, ...], mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def split_parts(
    name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> int:
    """Parts of a fused kernel of which a tensor shard uses its own columns;
    1 for any other parameter, and where there is one tensor shard."""
    parts, tensor = role_of(name).parts, mesh.shape[TENSOR]
    return 1 if tensor == 1 or shape[-1] // parts % tensor else parts


def gather(name: str, array: jax.Array, operands: jnp.dtype) -> jax.Array:
    """Gathers a parameter for use over all axes but the tensor axis.

    Args:
      name: decides the specs; "dit/blocks/..." for one layer's slice too.
      array: float32, sharded at rest.
      operands: dtype of matmuls' operands. Rounded before it is gathered,
        so that half the bytes travel in bfloat16; gradients are summed over
        devices in float32.

    Returns:
      the same values rounded to `operands`, float32; a fused kernel (in,
      parts * out) as (in, parts, out) where there are tensor shards.
    """
    mesh = mesh_in_use()
    if mesh is None or mesh.size == 1 or array.ndim < 2:
        return array
    rest = partition_spec(name, array.shape, mesh)
    used = partition_spec(name, array.shape, mesh, in_use=True)
    steps: tuple[PartitionSpec, ...] = (rest, used)
    parts = split_parts(name, array.shape, mesh)
    if parts > 1 and rest[-1] is None:
        array = array.reshape(len(array), parts, -1)
        rows = dividing(len(array), ZERO, mesh) or None
        steps = (
            PartitionSpec(rest[0], None, None),
            # Tensor shards swap rows for columns before anything grows, and
            # gradients are summed before they swap back.
            PartitionSpec(rows, None, TENSOR),
            PartitionSpec(None, None, TENSOR),
        )
    if steps[0] == steps[-1]:
        return array
    whole = _gather(array, steps, jnp.dtype(operands))
    return checkpoint_name(whole, GATHERED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(array, steps, operands):
    whole = array.astype(operands)
    for spec in steps:
        whole = jax.lax.with_sharding_constraint(whole, spec)
    return whole.astype(array.dtype)


def _gather_forward(array, steps, operands):
    return _gather(array, steps, operands), None


def _gather_backward(steps, operands, _, cotangent):
    # From whole and partial per device to a shard of the sum.
    for spec in steps[-2::-1]:
        cotangent = jax.lax.with_sharding_constraint(cotangent, spec)
    return (cotangent,)


_gather.defvjp(_gather_forward, _gather_backward)


def gather_all(
    parameters: dict[str, Any], operands: jnp.dtype
) -> dict[str, Any]:
    """`gather` for all but stacked layers, which their scan gathers."""
    return {
        name: array if "/blocks/" in name else gather(name, array, operands)
        for name, array in parameters.items()
    }


def gather_layer(layer: Any, name: str, operands: jnp.dtype) -> Any:
    """`gather` for one layer, a module cut from the stack called `name`."""

    def one(path: Any, array: jax.Array) -> jax.Array:
        inner = jax.tree_util.keystr(path, simple=True, separator="/")
        inner = inner.removesuffix("/value")  # the inside of an nnx.Param
        return gather(f"{name}/{inner}", array, operands)

    return jax.tree_util.tree_map_with_path(one, layer)


def parameter_shardings(
    parameters: dict[str, Any], mesh: Mesh
) -> dict[str, NamedSharding]:
    """name -> NamedSharding for a flat dict of (abstract) arrays."""
    return {
        name: NamedSharding(mesh, partition_spec(name, array.shape, mesh))
        for name, array in parameters.items()
    }


def check(parameters: dict[str, Any], mesh: Mesh) -> None:
    """Refuses a mesh that leaves much of the trained parameters unsharded.

    Raises:
      UserError: where a tenth or more of them, and a mebibyte at least, has
        fewer shards than its axes ask for.
    """
    wanted = _size(ALL, mesh)
    total = left = 0
    for name, sharding in parameter_shardings(parameters, mesh).items():
        array = parameters[name]
        total += array.size
        if math.prod(sharding.shard_shape(array.shape)) * wanted > array.size:
            left += array.size
    if left * 10 < total or left < 2**18:
        return
    raise UserError(
        f"mesh.fsdp {mesh.shape[FSDP]} x context {mesh.shape[CONTEXT]} x "
        f"tensor {mesh.shape[TENSOR]} does not divide the widths of this "
        f"model: {left / total:.0%} of its parameters would lie in fewer "
        "pieces on every device; choose a mesh.fsdp that divides model.width, "
        "and mesh.replica=-1 for the rest"
    )


def optimizer_shardings(
    transform: optax.GradientTransformation,
    abstract_state: Any,
    shardings: dict[str, NamedSharding],
    mesh: Mesh,
) -> Any:
    """Shardings of the optimizer state, mirroring the parameters'.

    Computed, never inferred: jit of `transform.init` would return the
    moments replicated.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return optax.tree.map_params(
        transform,
        lambda _, sharding: sharding,
        abstract_state,
        shardings,
        transform_non_params=lambda _: whole,
    )
