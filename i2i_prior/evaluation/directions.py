"""Which metrics are better when they are smaller, which when greater."""

from __future__ import annotations

from i2i_prior.errors import UserError

# By how a metric's name begins.
LOWER = ("FD", "FID", "sFID", "CLIP-FID", "KID", "CMMD", "LPIPS", "mean_rank")
HIGHER = (
    "fidelity",
    "top1",
    "top5",
    "IS",
    "precision",
    "recall",
    "density",
    "coverage",
    "CLIP-score",
    "PSNR",
    "SSIM",
)
# Of a fidelity: what it is without listening, and how free samples are.
NEITHER = ("_unrelated", "_diversity")


def lower_is_better(metric: str) -> bool:
    """Which way is up.

    Raises:
      UserError: where neither is.
    """
    if metric.startswith(LOWER):
        return True
    if metric.startswith(HIGHER) and not metric.endswith(NEITHER):
        return False
    raise UserError(
        f"it is not known whether a greater or a smaller {metric} is better; "
        f"choose a metric that begins with {', '.join((*LOWER, *HIGHER))}"
    )
