"""Sizes of other aspect ratios with the area of one square (PixArt-alpha).

A multi-scale model is trained and sampled at a few sizes, not at any: their
areas are within 10 % of the square's, their sides multiples of 1/16 of its
side. The model is also conditioned on the ratio: the number in the table (two
decimals), not the quotient of the sides.
"""

from i2i_prior.errors import UserError

# height / width -> (height, width) in pixels, tallest last
Table = dict[float, tuple[int, int]]

# The wide ones of the 40 sizes PixArt-alpha trains at around 1024 x 1024
# (ASPECT_RATIO_1024), height: widths.
_WIDE_1024 = {
    512: (2048, 1984, 1920, 1856),
    576: (1792, 1728, 1664),
    640: (1600, 1536),
    704: (1472, 1408, 1344),
    768: (1344, 1280),
    832: (1216, 1152),
    896: (1152, 1088),
    960: (1088, 1024),
}
_SIZES_1024 = [(h, w) for h, widths in _WIDE_1024.items() for w in widths]
# The tall ones are the same turned, without 1344 x 704.
_SIZES_1024 += [(1024, 1024), *((w, h) for h, w in _SIZES_1024[::-1])]
_SIZES_1024.remove((1344, 704))

# Ratios with near neighbours, left out of sampling.
_TRAINING_ONLY = {0.26, 0.27, 2.89, 3.11, 3.62, 3.75, 3.88}


def training_sizes(side: int) -> Table:
    """The 40 sizes around a square of `side`, a multiple of 16 pixels."""
    return {
        round(height / width, 2): (height * side // 1024, width * side // 1024)
        for height, width in _SIZES_1024
    }


# Side of the square -> the sizes to train at, 40 each: ASPECT_RATIO_256, _512
# and _1024 of PixArt-alpha and Lumos, _2048 of PixArt-Sigma.
TRAINING: dict[int, Table] = {
    side: training_sizes(side) for side in (256, 512, 1024, 2048)
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
    the ratios, the lower of two that are equally near. The table is one of
    `TRAINING` or `SAMPLING`; the sides may be in any unit, and the area does
    not matter. Returns the ratio of the table, and (height, width) in pixels.
    UserError if a side is not positive.
    """
    if not (height > 0 and width > 0):
        raise UserError(
            f"an image of {height} x {width} has no aspect ratio; give two "
            "positive sides"
        )
    wanted = height / width
    ratio = min(table, key=lambda ratio: abs(ratio - wanted))
    return ratio, table[ratio]
