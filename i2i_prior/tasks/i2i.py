"""Image to image: pre-training without captions or labels."""

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.tasks.base import Task


class I2ITask(Task):
    """Each image is generated from its own embedding.

    Lumos' pre-training (arXiv 2412.07767), without captions or labels: the
    encoder sees a view of the image, its embedding goes through the tokens
    door.
    """

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises UserError where a field is for pairs."""
        if config.data.pair or config.conditioner.concat_from != "none":
            raise UserError(
                "data.pair and conditioner.concat_from are for pairs; set "
                "task=paired, or leave them out"
            )
