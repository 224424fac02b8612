"""Paired translation: one image of a record to another."""

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.tasks.base import Task


class PairedTask(Task):
    """One image of a pair is generated from the other, see `data.pair`.

    The source reaches the DiT through the concat door, as Palette's (arXiv
    2111.05826, section 3) and Zero123's (arXiv 2303.11328, section 3.2) does:
    its latent is stacked on the noisy one. With `conditioner.tokens_from` its
    embedding goes through the tokens door as well.
    """

    columns = ("source_image", "image")

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises UserError at the first field that does not fit pairs."""
        if not config.data.pair:
            raise UserError(
                "task=paired needs data.pair, the two images of a record, as "
                "in data.pair=labels.jpg:photo.jpg"
            )
        concat = config.conditioner.concat_from == "source"
        if not concat and config.conditioner.tokens_from == "none":
            raise UserError(
                "task=paired shows the model no source; set "
                "conditioner.concat_from=source, conditioner.tokens_from, or "
                "both"
            )
        for name in ("cached", "aspect_buckets"):
            if config.data[name]:
                raise UserError(
                    f"task=paired reads pairs of images, without data.{name}; "
                    "set it to false"
                )
