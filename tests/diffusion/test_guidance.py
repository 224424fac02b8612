"""Guidance: scale, interval, composition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.diffusion.guidance import classifier_free, scale_at

X = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
T = jnp.array([0.1, 0.5, 0.9])


def cond(x: jax.Array, t: jax.Array) -> jax.Array:
    return x * 1.7 + t[:, None, None, None]


def uncond(x: jax.Array, t: jax.Array) -> jax.Array:
    return x * 0.3 - 2 * t[:, None, None, None]


def test_scale_one_is_cond_to_the_bit_and_zero_is_uncond() -> None:
    a, b = cond(X, T), uncond(X, T)
    np.testing.assert_array_equal(classifier_free(a, b, 1.0), a)
    np.testing.assert_allclose(classifier_free(a, b, 0.0), b, atol=1e-6)
    np.testing.assert_allclose(
        classifier_free(a, b, 4.5), b + 4.5 * (a - b), rtol=1e-5
    )


def test_a_scale_for_each_example() -> None:
    a, b = cond(X, T), uncond(X, T)
    scale = jnp.array([0.0, 1.0, 3.0])
    got = classifier_free(a, b, scale)
    for i in range(3):
        np.testing.assert_allclose(
            got[i], b[i] + scale[i] * (a[i] - b[i]), rtol=1e-5, atol=1e-6
        )


def test_the_interval_switches_guidance_with_traced_values() -> None:
    run = jax.jit(
        lambda x, t, scale: classifier_free(
            cond(x, t), uncond(x, t), scale_at(t, scale, (0.3, 0.5))
        )
    )
    got = run(X, T, 4.5)
    a, b = cond(X, T), uncond(X, T)
    np.testing.assert_allclose(got[0], a[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], (b + 4.5 * (a - b))[1], rtol=1e-5)
    np.testing.assert_allclose(got[2], a[2], rtol=1e-6)
    each = run(X, T, jnp.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(each[1], (b + 3.0 * (a - b))[1], rtol=1e-5)
    np.testing.assert_allclose(each[2], a[2], rtol=1e-6)


def test_autoguidance_composes_with_classifier_free_guidance() -> None:
    def weak(x: jax.Array, t: jax.Array) -> jax.Array:
        return 0.9 * cond(x, t)

    strong = classifier_free(cond(X, T), weak(X, T), 2.0)
    both = classifier_free(strong, uncond(X, T), 3.0)
    a = 2.0 * cond(X, T) - weak(X, T)
    np.testing.assert_allclose(both, 3.0 * a - 2.0 * uncond(X, T), rtol=1e-4)
