"""What the shapes in a file tell of the encoder in it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from i2i_prior.errors import UserError
from i2i_prior.interop.layouts.vit import LAYOUTS, key_of

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict


class ShapeReader:
    """The shapes in a file by our name of a part.

    Attributes:
      prefix: what stands before every key.

    Raises:
      UserError: by every method, where a key is missing or misshapen.
    """

    def __init__(self, state: StateDict, layout: str):
        self.path, self.shapes = state.path, state.shapes
        self.layout, self.spec = layout, LAYOUTS[layout]
        self.prefix = self.spec.prefixes[0]
        for prefix in self.spec.prefixes:
            if f"{key_of(self.spec, 'norm', prefix)}.weight" in self.shapes:
                self.prefix = prefix
                break

    def _key(self, part: str, layer: int) -> str:
        key = key_of(self.spec, part, self.prefix).format(i=layer)
        whole = ("positions", "registers")
        if part in whole or key in self.shapes:
            return key
        return f"{key}.weight"

    def has(self, part: str) -> bool:
        """Whether the file has this part."""
        if part not in self.spec.names:
            return False
        return self._key(part, 0) in self.shapes

    def shape(self, part: str) -> tuple[int, ...]:
        """The shape of its weight, of the first layer's."""
        key = self._key(part, 0)
        if key not in self.shapes:
            raise UserError(
                f"{self.path} is not the {self.layout} checkpoint it looks "
                f"like: its key {key} is missing; nothing was loaded"
            )
        return tuple(self.shapes[key])

    def depth(self) -> int:
        """Layers."""
        return next(
            layer
            for layer in itertools.count()
            if self._key("norm1", layer) not in self.shapes
        )

    def patch_embedding(self) -> tuple[int, int]:
        """Width and patch."""
        shape = self.shape("patch_embed")
        if len(shape) == 2 and self.layout == "siglip":
            raise UserError(
                f"{self.path} is a NaFlex SigLIP 2, which takes images of any "
                "aspect as padded sequences; use a fixed-resolution SigLIP 2 "
                "(its name ends in the resolution)"
            )
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise UserError(
                f"{self.path}: patch embeddings of shape {shape} are not "
                "square patches of RGB pixels; nothing was loaded"
            )
        return shape[0], shape[2]

    def cells(self, cls: bool) -> int:
        """Cells of the position table a side."""
        tokens = self.shape("positions")[-2] - cls
        side = math.isqrt(max(tokens, 0))
        if side < 1 or side * side != tokens:
            raise UserError(
                f"{self.path}: {tokens} positions are no square grid; nothing "
                "was loaded"
            )
        return side
