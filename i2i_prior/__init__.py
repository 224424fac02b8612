"""Image-to-image generative priors: trained, scaled, measured, handed over.

from i2i_prior import Prior, load_encoder
"""

from typing import TYPE_CHECKING, Any

from i2i_prior.version import __version__

__all__ = ["Prior", "__version__", "load_encoder"]

if TYPE_CHECKING:
    from i2i_prior.inference.prior import Prior, load_encoder


def __getattr__(name: str) -> Any:
    # Lazy, so that `import i2i_prior` stays light.
    if name in ("Prior", "load_encoder"):
        from i2i_prior.inference import prior

        return getattr(prior, name)
    raise AttributeError(f"module 'i2i_prior' has no attribute {name!r}")
