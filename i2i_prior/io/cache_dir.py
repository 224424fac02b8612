"""Cache folder of a user, for files that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(*parts: str) -> Path:
    """Path below the user's cache folder, whether it exists or not.

    Args:
        parts: folders and a file below i2i_prior's own folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "i2i_prior", *parts)
