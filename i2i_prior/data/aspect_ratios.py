"""Sizes of other aspect ratios with the area of one square (PixArt-alpha).

A multi-scale model is trained and sampled at a few sizes, not at any: their
areas are within 10 % of the square's, their sides multiples of 1/16 of its
side. The model is also conditioned on the ratio: the number in the table (two
decimals), not the quotient of the sides.
"""

from __future__ import annotations

from i2i_prior.errors import UserError

# height / width -> (height, width) in pixels, tallest last
Table = dict[float, tuple[int, int]]

# The 40 sizes PixArt-alpha trains at around 1024 x 1024 (ASPECT_RATIO_1024).
_TRAINING_1024: Table = {
    0.25: (512, 2048),
    0.26: (512, 1984),
    0.27: (512, 1920),
    0.28: (512, 1856),
    0.32: (576, 1792),
    0.33: (576, 1728),
    0.35: (576, 1664),
    0.4: (640, 1600),
    0.42: (640, 1536),
    0.48: (704, 1472),
    0.5: (704, 1408),
    0.52: (704, 1344),
    0.57: (768, 1344),
    0.6: (768, 1280),
    0.68: (832, 1216),
    0.72: (832, 1152),
    0.78: (896, 1152),
    0.82: (896, 1088),
    0.88: (960, 1088),
    0.94: (960, 1024),
    1.0: (1024, 1024),
    1.07: (1024, 960),
    1.13: (1088, 960),
    1.21: (1088, 896),
    1.29: (1152, 896),
    1.38: (1152, 832),
    1.46: (1216, 832),
    1.67: (1280, 768),
    1.75: (1344, 768),
    2.0: (1408, 704),
    2.09: (1472, 704),
    2.4: (1536, 640),
    2.5: (1600, 640),
    2.89: (1664, 576),
    3.0: (1728, 576),
    3.11: (1792, 576),
    3.62: (1856, 512),
    3.75: (1920, 512),
    3.88: (1984, 512),
    4.0: (2048, 512),
}

# Ratios with near neighbours, left out of sampling.
_TRAINING_ONLY = {0.26, 0.27, 2.89, 3.11, 3.62, 3.75, 3.88}


def training_sizes(side: int) -> Table:
    """The 40 sizes around a square of another side.

    Args:
        side: a multiple of 16 pixels, so that all sides are multiples of
            side / 16.
    """
    return _scaled(_TRAINING_1024, side)


def _scaled(table: Table, side: int) -> Table:
    return {
        ratio: (height * side // 1024, width * side // 1024)
        for ratio, (height, width) in table.items()
    }


# Side of the square -> the sizes to train at, 40 each: ASPECT_RATIO_256, _512
# and _1024 of PixArt-alpha and Lumos, _2048 of PixArt-Sigma.
TRAINING: dict[int, Table] = {
    side: _scaled(_TRAINING_1024, side) for side in (256, 512, 1024, 2048)
}

# Side of the square -> the sizes to sample at. Up to 1024 they are the 33 of
# ASPECT_RATIO_1024_TEST in PixArt-alpha and Lumos; at 2048 all 40, as in
# diffusers (PixArt-Sigma's own list of 33 there has 0.26, not 0.28).
SAMPLING: dict[int, Table] = {
    side: {
        ratio: size
        for ratio, size in table.items()
        if side == 2048 or ratio not in _TRAINING_ONLY
    }
    for side, table in TRAINING.items()
}


def nearest(
    height: float, width: float, table: Table
) -> tuple[float, tuple[int, int]]:
    """The size in a table whose ratio is nearest to height / width.

    Follows get_closest_ratio of PixArt-alpha and Lumos: by the difference of
    the ratios, the lower of two that are equally near. The area of the
    request does not matter.

    Args:
      height, width: wanted, in any unit.
      table: of `TRAINING` or `SAMPLING`.

    Returns:
      the ratio of the table, and (height, width) in pixels.

    Raises:
      UserError: where a side is not positive.
    """
    if not (height > 0 and width > 0):
        raise UserError(
            f"an image of {height} x {width} has no aspect ratio; give two "
            "positive sides"
        )
    wanted = height / width
    ratio = min(table, key=lambda ratio: abs(ratio - wanted))
    return ratio, table[ratio]
