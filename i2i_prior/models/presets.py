"""Named sizes: `lumos_xl2`, `modern_s4`, ... = family, size, patch."""

import re

from i2i_prior.errors import UserError
from i2i_prior.models.blocks import BLOCKS

# depth, width, heads. S to XL: DiT (arXiv 2212.09748 table 1); H and G: JiT
# (arXiv 2511.13720). The head width of XL is 72. XXL is ours: heads of 128,
# which matrix units take without padding, and a width that divides by 2^11.
SIZES: dict[str, tuple[int, int, int]] = {
    "s": (12, 384, 6),
    "b": (12, 768, 12),
    "l": (24, 1024, 16),
    "xl": (28, 1152, 16),
    "h": (32, 1280, 16),
    "g": (40, 1664, 16),
    "xxl": (36, 2048, 16),
}


def preset(name: str) -> dict[str, int | str]:
    """`lumos_xl2` -> {"block", "depth", "width", "heads", "patch"}; UserError
    where the name is not family_sizepatch."""
    families, sizes = "|".join(BLOCKS), "|".join(SIZES)
    match = re.fullmatch(rf"({families})_({sizes})(\d+)", name)
    if not match:
        raise UserError(
            f"model preset {name!r} is unknown; it is a family "
            f"({', '.join(BLOCKS)}), a size ({', '.join(SIZES)}) and a patch, "
            "as lumos_xl2"
        )
    family, size, patch = match.groups()
    names = ("depth", "width", "heads")
    shape = dict(zip(names, SIZES[size], strict=True))
    return {"block": family, **shape, "patch": int(patch)}
