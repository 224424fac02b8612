"""Dimensions of an image encoder from the shapes in a file."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from i2i_prior.errors import UserError
from i2i_prior.interop.layouts.vit import LAYOUTS, key_of

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict


class ShapeReader:
    """Shapes in a file by our name of a part.

    Every method raises UserError where a key is missing or misshapen.

    Attributes:
      prefix: of every key.
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
        """Returns True if the file has this part."""
        if part not in self.spec.names:
            return False
        return self._key(part, 0) in self.shapes

    def shape(self, part: str) -> tuple[int, ...]:
        """Returns the shape of a part's weight, in the first layer."""
        key = self._key(part, 0)
        if key not in self.shapes:
            raise UserError(
                f"{self.path} is not the {self.layout} checkpoint it looks "
                f"like: its key {key} is missing; nothing was loaded"
            )
        return tuple(self.shapes[key])

    def depth(self) -> int:
        """Returns the number of layers."""
        return next(
            layer
            for layer in itertools.count()
            if self._key("norm1", layer) not in self.shapes
        )

    def patch_embedding(self) -> tuple[int, int]:
        """Returns width and patch, the side in pixels."""
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
        """Returns the side of the position grid, in patches."""
        tokens = self.shape("positions")[-2] - cls
        side = math.isqrt(max(tokens, 0))
        if side < 1 or side * side != tokens:
            raise UserError(
                f"{self.path}: {tokens} positions are not a square grid; "
                "nothing was loaded"
            )
        return side
