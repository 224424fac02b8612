"""Image-to-image generative priors: trained, scaled, measured, handed over.

from i2i_prior import Prior, load_encoder
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Prior", "__version__", "load_encoder"]

if TYPE_CHECKING:
    from i2i_prior.api import Prior, load_encoder


def __getattr__(name: str) -> Any:
    # Lazy, so that `import i2i_prior` stays light.
    if name in ("Prior", "load_encoder"):
        from i2i_prior import api

        return getattr(api, name)
    raise AttributeError(f"module 'i2i_prior' has no attribute {name!r}")
