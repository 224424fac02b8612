"""Tasks by the name that the config field `task` has."""

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.tasks.base import Task
from i2i_prior.tasks.i2i import I2ITask
from i2i_prior.tasks.paired import PairedTask

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
