"""Image-to-image generative priors: trained, scaled, measured, handed over."""

from __future__ import annotations

__version__ = "0.1.0"
