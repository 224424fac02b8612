"""Which records of a source are worth training on, and why the others not.

`filters` judge one record, `duplicates` compare all of them, `passes` runs
both, `selected` keeps the result and reads through it, `report` shows what was
dropped. Nothing is imported here.
"""

from __future__ import annotations
