"""Tasks by the name that the config field `task` has."""

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


TASKS: dict[str, type[Task]] = {"i2i": I2ITask, "paired": PairedTask}


def make_task(config: ConfigDict) -> Task:
    """The task of a config.

    Raises:
      UserError: for an unknown name.
    """
    if config.task not in TASKS:
        raise UserError(
            f"config field task is {config.task!r}; choose {' or '.join(TASKS)}"
        )
    return TASKS[config.task](config)
