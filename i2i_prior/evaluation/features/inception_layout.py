"""Names and shapes of the published Inception weights of FID.

A unit is a convolution without bias and its BatchNorm, under the names of
torchvision, pytorch-fid and torch-fidelity. In the TensorFlow graph
the blocks are mixed (5b), mixed_1 (5c), mixed_2 (5d), mixed_3 (6a), mixed_4
to mixed_7 (6b to 6e), mixed_8 (7a), mixed_9 (7b) and mixed_10 (7c).
"""

from collections.abc import Collection

Shape = tuple[int, ...]

CLASSES, WIDTH = 1008, 2048  # of the last layer, fc
_NORM = ("weight", "bias", "running_mean", "running_var")
# The blocks of pytorch-fid's outer module, which has no fc.
_OUTER = (
    ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    (
        *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ),
    ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


def _block(name: str, inputs: int, units: str) -> dict[str, Shape]:
    """Shapes of units "branch outputs height x width [own inputs]"."""
    shapes: dict[str, Shape] = {}
    for unit in units.split(","):
        branch, outputs, kernel, *own = unit.split()
        height, width = map(int, kernel.split("x"))
        read = int(own[0]) if own else inputs
        key = f"{name}.{branch}" if name else branch
        shapes[key] = (int(outputs), read, height, width)
    return shapes


def _a(name: str, inputs: int, pooled: int) -> dict[str, Shape]:
    return _block(
        name,
        inputs,
        "branch1x1 64 1x1, branch5x5_1 48 1x1, branch5x5_2 64 5x5 48,"
        "branch3x3dbl_1 64 1x1, branch3x3dbl_2 96 3x3 64,"
        f"branch3x3dbl_3 96 3x3 96, branch_pool {pooled} 1x1",
    )


def _c(name: str, c: int) -> dict[str, Shape]:
    return _block(
        name,
        768,
        f"branch1x1 192 1x1, branch7x7_1 {c} 1x1, branch7x7_2 {c} 1x7 {c},"
        f"branch7x7_3 192 7x1 {c}, branch7x7dbl_1 {c} 1x1,"
        f"branch7x7dbl_2 {c} 7x1 {c}, branch7x7dbl_3 {c} 1x7 {c},"
        f"branch7x7dbl_4 {c} 7x1 {c}, branch7x7dbl_5 192 1x7 {c},"
        "branch_pool 192 1x1",
    )


def _e(name: str, inputs: int) -> dict[str, Shape]:
    return _block(
        name,
        inputs,
        "branch1x1 320 1x1, branch3x3_1 384 1x1, branch3x3_2a 384 1x3 384,"
        "branch3x3_2b 384 3x1 384, branch3x3dbl_1 448 1x1,"
        "branch3x3dbl_2 384 3x3 448, branch3x3dbl_3a 384 1x3 384,"
        "branch3x3dbl_3b 384 3x1 384, branch_pool 192 1x1",
    )


# unit -> shape of its kernel as published: (out, in, height, width).
UNITS: dict[str, Shape] = {
    **_block(
        "",
        0,
        "Conv2d_1a_3x3 32 3x3 3, Conv2d_2a_3x3 32 3x3 32,"
        "Conv2d_2b_3x3 64 3x3 32, Conv2d_3b_1x1 80 1x1 64,"
        "Conv2d_4a_3x3 192 3x3 80",
    ),
    **_a("Mixed_5b", 192, 32),
    **_a("Mixed_5c", 256, 64),
    **_a("Mixed_5d", 288, 64),
    **_block(
        "Mixed_6a",
        288,
        "branch3x3 384 3x3, branch3x3dbl_1 64 1x1, branch3x3dbl_2 96 3x3 64,"
        "branch3x3dbl_3 96 3x3 96",
    ),
    **_c("Mixed_6b", 128),
    **_c("Mixed_6c", 160),
    **_c("Mixed_6d", 160),
    **_c("Mixed_6e", 192),
    **_block(
        "Mixed_7a",
        768,
        "branch3x3_1 192 1x1, branch3x3_2 320 3x3 192, branch7x7x3_1 192 1x1,"
        "branch7x7x3_2 192 1x7 192, branch7x7x3_3 192 7x1 192,"
        "branch7x7x3_4 192 3x3 192",
    ),
    **_e("Mixed_7b", 1280),
    **_e("Mixed_7c", 2048),
}


def published_shapes() -> dict[str, Shape]:
    """Shapes in torch's layout of all 472 keys."""
    shapes: dict[str, Shape] = {}
    for unit, kernel in UNITS.items():
        shapes[f"{unit}.conv.weight"] = kernel
        shapes |= {f"{unit}.bn.{part}": kernel[:1] for part in _NORM}
    shapes["fc.weight"] = (CLASSES, WIDTH)
    shapes["fc.bias"] = (CLASSES,)
    return shapes


def published_names(keys: Collection[str]) -> dict[str, str]:
    """Keys in the file by published key, without BatchNorm's counters.

    Mixed_5b is `blocks.2.0` in pytorch-fid's outer module, and so on.
    """
    outer = {
        f"blocks.{i}.{j}.": f"{name}."
        for i, names in enumerate(_OUTER)
        for j, name in enumerate(names)
    }
    found = {}
    for key in keys:
        if key.endswith(".num_batches_tracked"):
            continue
        start = ".".join(key.split(".")[:3]) + "."
        found[key.replace(start, outer.get(start, start), 1)] = key
    return found
