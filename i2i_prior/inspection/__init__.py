"""Inspection of data before training: of a source, or of a config's batch.

`survey` reads a sample of a source and times it, `describe` writes both as
text and as a page, `batch` shows the batch of a step.
"""
