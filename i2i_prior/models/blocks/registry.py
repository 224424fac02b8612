"""Registry of block families: all that the DiT and its sharding ask of one.

A family is a file of this folder that calls `register`, and an import in
`__init__.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from i2i_prior.parallel.roles import Role, declare_roles


@dataclass(frozen=True)
class Block:
    """A family of blocks."""

    # Makes a block, cls(config, rngs=rngs); called as block(h (B, N, D), time,
    # tokens (B, M, D) or None, mask bool (B, M) or None), and with `rotary`
    # also angles float (N, d // 2), it returns h. `time` is the time embedding
    # (B, D), or the shared modulations.
    cls: Callable[..., Any]
    # Makes the layer behind the blocks, final(config, rngs=rngs); called as
    # final(h (B, N, D), time (B, D)), it returns (B, N, p * p * output
    # channels)
    final: Callable[..., Any]
    # Path of a layer within the block, as "attention/qkv", -> role of its
    # parameters
    roles: Mapping[str, Role]
    rotary: bool = False  # blocks take the angles of 2-D RoPE
    # Modulations that one linear map of the time makes for all blocks (adaLN-
    # single); 0 where each block has its own map
    shared_modulations: int = 0
    # Regular expression of the parameters within a block that a single unmasked
    # condition token leaves unused
    idle: str = r"cross_attention/(q|k|q_norm|k_norm)/"


BLOCKS: dict[str, Block] = {}


def register(name: str, block: Block) -> None:
    """Adds a family; `model.block` and presets take its name."""
    declare_roles(block.roles)
    BLOCKS[name] = block


def layer_roles(**layers: Any) -> dict[str, Role]:
    """Roles of layers, by name within the block, whose classes have `roles`."""
    return {
        f"{name}/{part}": role
        for name, layer in layers.items()
        for part, role in layer.roles.items()
    }
