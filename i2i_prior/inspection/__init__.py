"""Inspection of data before training: of a source, or of a config's batch.

`survey` reads a sample of a source, `speed` times reading and decoding,
`describe` writes both as text and as a page, `batch` shows the batch of a
step. Nothing is imported here.
"""

from __future__ import annotations
