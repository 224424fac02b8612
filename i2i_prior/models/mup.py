"""muP: the learning rate that suits a narrow model suits wide ones.

Maximal update parametrisation (Yang et al., arXiv 2203.03466, Table 8) of the
DiT and its conditioner, as for diffusion transformers in arXiv 2505.15270.
Widen by heads: attention's factor 1 / sqrt(d) is muP's 1 / d up to a constant
only where the head width d stays.

With r = base width / width, and everything at r = 1 as without muP:

- **hidden** kernels, both of whose sides grow with the width: variance 1 / fan
  at the start (Xavier's, as without), Adam's learning rate times r.
- **the output** kernel: zero at the start, a multiplier r, Adam's learning
  rate as it is.
- **all else** (kernels that read something of a fixed size, biases, gains,
  tables, null tokens): the start of the base width, the learning rate as it
  is.

The output's multiplier is applied by the optimizer: a weight w = r v, of which
v is what Adam trains, has r times w's gradient and r times v's update. With a
start at zero that is the same training, by the same numbers for the clip and
for Adam's epsilon, and w is a plain kernel wherever it is saved, started from
or exported to.

The image encoder is no part of it. Trained along (`encoder.kind=joint`), it
counts as something of a fixed size: keep its width where the DiT's changes.
"""

import re

from i2i_prior.parallel.roles import role_of

# Outside the blocks, whose layers have a role.
_HIDDEN = re.compile(
    r"^dit/(time_modulation|final/modulation"
    r"|(time|pooled|size)_embed/(.*/)?fc2)/kernel$"
    r"|^conditioner/project/fc2/kernel$"
)
_OUTPUT = "dit/final/out/kernel"


def width_ratio(base_width: int, width: int) -> float:
    """r, from the base width (0 for no muP) and the model's width."""
    return base_width / width if base_width else 1.0


def gradient_factor(name: str, ratio: float) -> float:
    """Factor of a parameter's gradient before the optimizer."""
    return ratio if name == _OUTPUT else 1.0


def update_factor(name: str, ratio: float) -> float:
    """Factor of Adam's update of a parameter: the learning rate of hidden
    kernels, the multiplier of the output."""
    hidden = name.endswith("/kernel") and role_of(name).hidden
    return ratio if hidden or _HIDDEN.match(name) or name == _OUTPUT else 1.0
