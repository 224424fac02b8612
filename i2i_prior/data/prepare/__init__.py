"""Conversion of a source to ArrayRecord shards: `i2i-prior prepare`.

`plan` claims the folder, `examples` makes an example, `encode` runs networks
on batches of them, `shards` writes the files in the processes of `workers`;
`finalize` writes the manifest. Networks are passed in as functions.
"""

from __future__ import annotations
