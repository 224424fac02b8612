"""Image to image: each image is generated from its own embedding."""

from __future__ import annotations

from i2i_prior.tasks.base import Task


class I2ITask(Task):
    """Lumos' pre-training (arXiv 2412.07767): no captions, no labels.

    The encoder sees a view of the image, its embedding goes through the
    tokens door.
    """
