"""Sources of images, and batches of them.

`sources` opens a SPEC, `decode_image` decodes, `transforms` crops and
augments, `pipeline` makes the batch of a step. Nothing is imported here, so
that `decode_image` alone stays light.
"""
