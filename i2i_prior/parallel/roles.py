"""Roles of parameters: the dimensions that are sharded, and the fan-in.

Column-parallel then row-parallel kernels (Megatron-LM, arXiv 1909.08053
section 3), so that a pair needs one reduction. The families of blocks in
`models.blocks` declare the roles of their layers; all other kernels are small
or used by each device for its own images, and have the role `KERNEL`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from i2i_prior.errors import UserError

IN, OUT, WHOLE = 0, 1, None  # the last two dimensions of a kernel, or neither


@dataclass(frozen=True)
class Role:
    """Role of the parameters of one layer."""

    # Dimension of the kernel that ZeRO shards, IN, OUT or WHOLE
    zero: int | None
    tensor: int | None = WHOLE  # dimension on the tensor axis, IN, OUT or WHOLE
    gathered: bool = True  # ZeRO's shards are gathered for use
    # Parts of the kernel side by side, [q | k | v], which no contiguous shard
    # splits by heads. At rest the tensor axis helps with their ZeRO shards; in
    # use a tensor shard has its own columns of every part.
    parts: int = 1
    bias: bool = False  # the bias is sharded like the kernel
    # Both sides of the kernel grow with the model's width (muP)
    hidden: bool = True


COLUMN = Role(IN, OUT)
ROW = Role(OUT, IN)
# A third of a block's weights for one row an image: rows travel, not the
# kernel (`models.blocks.modulation`).
MODULATION = Role(OUT, gathered=False, bias=True)
KERNEL = Role(OUT, hidden=False)
REPLICATED = Role(WHOLE, gathered=False, hidden=False)

_LAYERS: dict[str, Role] = {}


def fused(parts: int) -> Role:
    """Role of a kernel of several column-parallel parts side by side."""
    return Role(IN, parts=parts)


def declare_roles(roles: Mapping[str, Role]) -> None:
    """Declares layers of a family by path in a block, as "attention/qkv".

    Raises:
      UserError: for a layer that another family gives another role.
    """
    for layer, role in roles.items():
        if _LAYERS.setdefault(layer, role) != role:
            raise UserError(
                f"the blocks' layer {layer} has two roles, {_LAYERS[layer]} "
                f"and {role}; give one of the layers another name"
            )


def role_of(name: str) -> Role:
    """Role of a parameter, as "dit/blocks/attention/qkv/kernel"."""
    layer = re.fullmatch(r"dit/blocks/(.*)/(kernel|bias)", name)
    if layer and layer[1] in _LAYERS:
        role = _LAYERS[layer[1]]
        if layer[2] == "kernel" or role.bias:
            return role
    return KERNEL if name.endswith("/kernel") else REPLICATED
