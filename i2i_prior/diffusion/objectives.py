"""Training objective: drawn times, noised data, loss per example."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.diffusion.paths import Path
from i2i_prior.diffusion.predictions import (
    PREDICTIONS,
    expand,
    from_x0_eps,
    to_x0_eps,
)
from i2i_prior.errors import UserError, check_known

DISTRIBUTIONS = ("uniform", "logit_normal")
WEIGHTINGS = ("none", "min_snr")


def draw_times(
    key: jax.Array,
    batch_size: int,
    path: Path,
    distribution: str = "uniform",
    mean: float = 0.0,
    std: float = 1.0,
) -> jax.Array:
    """Training times, float32 (B,) in [path.t_min, 1].

    On ddpm paths every time is a table entry (n + 1) / N. On flow times are
    continuous, then shifted (`Path.shift_time`), then held above t_min.

    The distribution is `uniform`, or `logit_normal`: the sigmoid of a normal
    draw of this mean and std (arXiv 2403.03206, Sec. 3.1); larger mean, more
    noise.

    Raises:
      UserError: for an unknown distribution.
    """
    check_known("time distribution", distribution, DISTRIBUTIONS)
    steps = path.num_timesteps
    if distribution == "uniform" and path.is_discrete:
        index = jax.random.randint(key, (batch_size,), 0, steps)
        return (index + 1).astype(jnp.float32) / steps
    if distribution == "uniform":
        t = jax.random.uniform(key, (batch_size,))
    else:
        t = jax.nn.sigmoid(mean + std * jax.random.normal(key, (batch_size,)))
    if path.is_discrete:
        return jnp.clip(jnp.round(t * steps), 1, steps) / steps
    return jnp.clip(path.shift_time(t), path.t_min, path.t_max)


def add_noise(
    x0: jax.Array, noise: jax.Array, t: jax.Array, path: Path
) -> jax.Array:
    """x_t = alpha(t) x0 + sigma(t) noise, float32 (B, ...); t is (B,)."""
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    return expand(path.alpha(t), x0) * x0 + expand(path.sigma(t), x0) * noise


def loss_weight(
    t: jax.Array,
    path: Path,
    prediction: str,
    weighting: str = "none",
    min_snr_gamma: float = 5.0,
) -> jax.Array:
    """Weight of the squared error at each time, float32 (B,).

    `min_snr` (arXiv 2303.09556, Sec. 3.4) weighs the error of x0 by
    min(SNR, gamma); an error d in x0 is one of d alpha / sigma in eps,
    d (alpha^2 + sigma^2) / sigma in v and d (alpha + sigma) / sigma in
    velocity, so the weight is divided by the square of that factor.

    Raises:
      UserError: for an unknown weighting or prediction.
    """
    check_known("prediction", prediction, PREDICTIONS)
    check_known("loss weighting", weighting, WEIGHTINGS)
    if weighting == "none":
        return jnp.ones_like(t, jnp.float32)
    log_snr = path.log_snr(t)
    if prediction == "eps":
        # min(SNR, gamma) / SNR, finite at both ends.
        return jnp.minimum(1.0, min_snr_gamma * jnp.exp(-log_snr))
    weight = jnp.minimum(jnp.exp(log_snr), min_snr_gamma)
    alpha, sigma = path.alpha(t), path.sigma(t)
    if prediction == "v":
        return weight * (sigma / (alpha**2 + sigma**2)) ** 2
    if prediction == "velocity":
        return weight * (sigma / (alpha + sigma)) ** 2
    return weight


def loss(
    output: jax.Array,
    x0: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    path: Path,
    prediction: str,
    learn_sigma: bool = False,
    vlb_weight: float = 1.0,
    weighting: str = "none",
    min_snr_gamma: float = 5.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of each example: squared error, and with learned variances a bound.

    With `learn_sigma` this is the hybrid loss of Improved DDPM (arXiv
    2102.09672, Eq. 16) as PixArt-alpha and Lumos train with: the bound
    teaches only the variance channels, and is not rescaled by N / 1000.

    Args:
      output: what the network returned, (B, H, W, C); with `learn_sigma`
        (B, H, W, 2C), the prediction first, then the variance channels.
      x0, noise: data and the eps that made x_t, (B, H, W, C).
      t: times, (B,) in [0, 1].
      path, prediction: what x_t is and what the network predicts of it.
      learn_sigma: whether the network also predicts variances.
      vlb_weight: factor of the bound.
      weighting, min_snr_gamma: of the squared error, see `loss_weight`.

    Returns:
      loss, float32 (B,), and parts, each (B,): `mse`, the plain mean squared
      error, and with `learn_sigma` also `vlb`, in bits per dimension.

    Raises:
      UserError: for an unknown word, for output channels that do not fit, or
        for `learn_sigma` on a path without betas.
    """
    weight = loss_weight(t, path, prediction, weighting, min_snr_gamma)
    channels = x0.shape[-1]
    expected = 2 * channels if learn_sigma else channels
    if output.shape[-1] != expected:
        raise UserError(
            f"The network returned {output.shape[-1]} channels where the "
            f"loss needs {expected}: set learn_sigma and the output channels "
            "of the network to agree."
        )
    output = output.astype(jnp.float32)
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    predicted, variance = output[..., :channels], output[..., channels:]
    target = from_x0_eps(x0, noise, path.alpha(t), path.sigma(t), prediction)
    mse = _mean_over_example((predicted - target) ** 2)
    if not learn_sigma:
        return weight * mse, {"mse": mse}
    x_t = add_noise(x0, noise, t, path)
    frozen = jax.lax.stop_gradient(predicted)
    vlb = variational_bound(frozen, variance, x0, x_t, t, path, prediction)
    return weight * mse + vlb_weight * vlb, {"mse": mse, "vlb": vlb}


@functools.lru_cache(maxsize=16)
def _posterior_tables(path: Path) -> dict[str, np.ndarray]:
    """Tables of q(x_{n-1} | x_n, x0), each float32 (N,) (2006.11239, Eq. 7)."""
    betas, cumprod = path.betas(), path.alphas_cumprod()
    previous = np.concatenate([[1.0], cumprod[:-1]])
    variance = betas * (1.0 - previous) / (1.0 - cumprod)
    # Entry 0 is 0, whose log is not wanted: entry 1 stands in, as in IDDPM.
    variance[0] = variance[1]
    tables = {
        "log_beta": np.log(betas),
        "log_variance": np.log(variance),
        "x0_factor": betas * np.sqrt(previous) / (1.0 - cumprod),
        "x_t_factor": (
            (1.0 - previous) * np.sqrt(1.0 - betas) / (1.0 - cumprod)
        ),
    }
    return {name: table.astype(np.float32) for name, table in tables.items()}


def variational_bound(
    predicted: jax.Array,
    variance: jax.Array,
    x0: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    path: Path,
    prediction: str,
) -> jax.Array:
    """The bound's term at t, in bits per dimension, float32 (B,).

    KL(q(x_{n-1} | x_n, x0) || p(x_{n-1} | x_n)) for n > 0; at the first table
    entry -log p(x0 | x_0), the Gaussian's mass in a bin of 2 / 255 around
    each value of data in [-1, 1] (arXiv 2006.11239, Eqs. 5 and 13). The
    variance of p is exp(f log beta + (1 - f) log beta~) with f = (v + 1) / 2
    (arXiv 2102.09672, Eq. 15).

    All arrays are float32 (B, H, W, C), `variance` is v, meant to lie in
    [-1, 1], but for the times t (B,), which are on the table.

    Raises:
      UserError: on a path without betas.
    """
    if not path.is_discrete:
        raise UserError(
            f"learn_sigma needs a path with betas, and {path.name} has none: "
            "set learn_sigma to False or choose a ddpm path."
        )
    index = path.index(t)
    table = {
        name: expand(jnp.asarray(values)[index], x0)
        for name, values in _posterior_tables(path).items()
    }
    x0_predicted, _ = to_x0_eps(
        predicted, x_t, path.alpha(t), path.sigma(t), prediction
    )
    fraction = 0.5 * (variance + 1.0)
    log_variance = (
        fraction * table["log_beta"] + (1.0 - fraction) * table["log_variance"]
    )
    # x_t enters both means alike, so the KL sees the difference in x0 alone.
    difference = table["x0_factor"] * (x0 - x0_predicted)
    log_ratio = log_variance - table["log_variance"]
    divergence = 0.5 * (
        log_ratio
        + jnp.expm1(-log_ratio)
        + difference**2 * jnp.exp(-log_variance)
    )
    mean = table["x0_factor"] * x0_predicted + table["x_t_factor"] * x_t
    decoder = -discretized_log_likelihood(x0, mean, 0.5 * log_variance)
    nats = jnp.where(expand(index, x0) == 0, decoder, divergence)
    return _mean_over_example(nats) / math.log(2.0)


def discretized_log_likelihood(
    x: jax.Array, mean: jax.Array, log_std: jax.Array
) -> jax.Array:
    """log of a Gaussian's mass within 1 / 255 of x, elementwise, in nats.

    x is data in [-1, 1]; the bins at -1 and 1 are open (arXiv 2006.11239,
    Eq. 13). The normal distribution function is the tanh approximation that
    Improved DDPM uses, and with it PixArt-alpha and Lumos.
    """
    inverse_std = jnp.exp(-log_std)
    upper = _normal_cdf(inverse_std * (x - mean + 1.0 / 255.0))
    lower = _normal_cdf(inverse_std * (x - mean - 1.0 / 255.0))
    mass = jnp.where(
        x < -0.999, upper, jnp.where(x > 0.999, 1.0 - lower, upper - lower)
    )
    return jnp.log(jnp.maximum(mass, 1e-12))


def _normal_cdf(x: jax.Array) -> jax.Array:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * (1.0 + jnp.tanh(inner))


def _mean_over_example(x: jax.Array) -> jax.Array:
    """Mean over all axes but the first, (B,)."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
