"""Conversion of a source to ArrayRecord shards: `i2i-prior prepare`.

`folder` begins and ends the output, `examples` makes an example, `encode` runs
networks on batches of them, `shards` writes the files in the processes of
`workers`. Networks are passed in as functions.
"""
