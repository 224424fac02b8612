"""Views of data before training on it: of a source, or of a config's batch.

`survey` reads a sample of a source, `speed` times reading and decoding here,
`describe` writes both as text and as a page, `batch` shows what a model is
given. Nothing is imported here.
"""

from __future__ import annotations
