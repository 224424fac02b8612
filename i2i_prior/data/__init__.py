"""Where images come from and how they become batches.

`sources` opens a SPEC, `images` decodes and crops, `pipeline` makes the batch
of a step. Nothing is imported here, so `images` alone stays light.
"""

from __future__ import annotations
