"""The config of a run: fields, defaults, files, overrides, hash."""

from i2i_prior.config.config import (
    HOST_LOCAL,
    RESUMABLE,
    check_fields,
    config_hash,
    default_config,
    explain,
    flatten,
    from_flat,
    frozen_config,
    load_config,
    override,
    parse_arg,
    recorded,
    set_field,
)
from i2i_prior.config.sections import FIELDS

__all__ = [
    "FIELDS",
    "HOST_LOCAL",
    "RESUMABLE",
    "check_fields",
    "config_hash",
    "default_config",
    "explain",
    "flatten",
    "from_flat",
    "frozen_config",
    "load_config",
    "override",
    "parse_arg",
    "recorded",
    "set_field",
]
