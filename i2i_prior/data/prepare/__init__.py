"""From a source to a folder of ArrayRecord shards: `i2i-prior prepare`.

`plan` says what is made, `examples` makes one, `ahead` encodes many,
`shards` writes a file of them, `crew` does it in several processes,
`finish` puts the manifest together. What has networks is handed in.
"""

from __future__ import annotations
