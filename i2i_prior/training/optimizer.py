"""Learning-rate schedules, the decay mask and the optax chain."""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from i2i_prior.checkpoint.stochastic_rounding import keep_in_bfloat16
from i2i_prior.models.mup import gradient_factor, update_factor


def make_schedule(optim: ConfigDict, steps: int) -> optax.Schedule:
    """Makes a linear warm-up, then constant, cosine or linear decay.

    Cosine and linear decay reach `optim.final_ratio` of the peak after `steps`.
    """
    peak, first = optim.learning_rate, max(optim.warmup_steps, 1)
    warmup = optax.linear_schedule(peak / first, peak, first)
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
    """Mask of weight decay: kernels, not biases, gains or tables."""
    return {name: name.endswith("/kernel") for name in parameters}


def make_optimizer(
    optim: ConfigDict, steps: int, ratio: float = 1.0
) -> optax.GradientTransformation:
    """Makes a global-norm clip and AdamW (arXiv 1711.05101) on the schedule.

    With bfloat16 moments `update` takes a random `key`.

    Under muP each parameter has a learning rate of its own, and the weight
    decay keeps that of the schedule, so that the time scale of the decay is
    the same in all widths (arXiv 2405.13698). The state is the same tree.
    `ratio` is the base width over the width (`models.mup`), 1 for none.
    """
    adam = optax.scale_by_adam(optim.beta1, optim.beta2, optim.epsilon)
    if ratio != 1:
        adam = _scaled(adam, after=lambda name: update_factor(name, ratio))
    transform: optax.GradientTransformation = optax.chain(
        adam,
        optax.add_decayed_weights(optim.weight_decay, decay_mask),
        optax.scale_by_learning_rate(make_schedule(optim, steps)),
    )
    if optim.moment_dtype == "bfloat16":
        transform = keep_in_bfloat16(transform)
    if optim.clip_norm:
        clip = optax.clip_by_global_norm(optim.clip_norm)
        transform = optax.chain(clip, transform)
    if ratio != 1:
        transform = _scaled(
            transform, before=lambda name: gradient_factor(name, ratio)
        )
    return transform


def _scaled(
    transform: optax.GradientTransformation,
    before: Callable[[str], float] = lambda name: 1.0,
    after: Callable[[str], float] = lambda name: 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Scales a transformation by parameter name: gradients by `before`,
    updates by `after`.

    No link of the chain, which would change the tree of the state.
    """
    transform = optax.with_extra_args_support(transform)

    def update(grads, state, params=None, **extra):
        grads = {n: g * before(n) for n, g in grads.items()}
        updates, state = transform.update(grads, state, params, **extra)
        return {n: u * after(n) for n, u in updates.items()}, state

    return optax.GradientTransformationExtraArgs(transform.init, update)
