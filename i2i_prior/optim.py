"""Learning-rate schedules, the decay mask and the optax chain."""

from __future__ import annotations

import optax
from ml_collections import ConfigDict

from i2i_prior.rounding import keep_in_bfloat16


def make_schedule(optim: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up, then constant, cosine or linear to `final_ratio`.

    Args:
      optim: the `optim` section of the config.
      steps: length of the run; only cosine and linear depend on it.
    """
    peak = optim.learning_rate
    warmup = optax.linear_schedule(
        peak / max(optim.warmup_steps, 1), peak, max(optim.warmup_steps, 1)
    )
    rest = max(steps - optim.warmup_steps, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(
            peak, rest, optim.final_ratio
        ),
        "linear": lambda: optax.linear_schedule(
            peak, peak * optim.final_ratio, rest
        ),
    }[optim.schedule]()
    return optax.join_schedules([warmup, after], [optim.warmup_steps])


def decay_mask(parameters: dict) -> dict[str, bool]:
    """Weight decay applies to kernels: not to biases, gains, tables."""
    return {name: name.endswith("/kernel") for name in parameters}


def make_optimizer(
    optim: ConfigDict, steps: int
) -> optax.GradientTransformation:
    """Global-norm clip, then AdamW (arXiv 1711.05101) on the schedule.

    With bfloat16 moments `update` takes a random `key`.
    """
    adamw = optax.adamw(
        make_schedule(optim, steps),
        b1=optim.beta1,
        b2=optim.beta2,
        eps=optim.epsilon,
        weight_decay=optim.weight_decay,
        mask=decay_mask,
    )
    if optim.moment_dtype == "bfloat16":
        adamw = keep_in_bfloat16(adamw)
    if not optim.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(optim.clip_norm), adamw)
