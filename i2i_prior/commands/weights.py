"""`i2i-prior weights`: stores the weights that metrics need."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from i2i_prior.errors import UserError

if TYPE_CHECKING:
    from i2i_prior.evaluation.features.inception_weights import InceptionWeights

EXAMPLE = (
    "i2i-prior weights inception --from pt_inception-2015-12-05-6726825d.pth"
)

_LARGEST = 2**30  # bytes; the published file has 96 million


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("network", choices=("inception",))
    add(
        "--from",
        dest="source",
        metavar="FILE|URL",
        required=True,
        help="published .pth, or a state dict with its names",
    )
    add("--out", metavar="FILE", help=".safetensors, else the user's cache")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Reads Inception's weights, checks them, and stores them."""
    from urllib.parse import urlparse

    from i2i_prior.evaluation.features import inception_weights as inception

    out = Path(options.out or inception.stored_file())
    if urlparse(options.source).scheme in ("http", "https"):
        found = _read_url(options.source)
    else:
        found = inception.read_inception(options.source)
    size = inception.store(found, out)
    print(f"{out}: {size / 1e6:.0f} MB, SHA-256 of the file it came from")
    print(f"  {found.file_sha256}")
    if found.published:
        print("these are the published weights: results over them are FID")
    else:
        print(
            "these are NOT the published weights (SHA-256 "
            f"{inception.PUBLISHED}...): results over them will be called "
            f"{found.label}, never FID"
        )
    return 0


def _read_url(url: str) -> InceptionWeights:
    import tempfile

    from i2i_prior.evaluation.features.inception_weights import read_inception
    from i2i_prior.io.download import download

    with tempfile.TemporaryDirectory() as folder:
        path = download(url, Path(folder), _LARGEST)
        try:
            return read_inception(path)
        except UserError as error:  # the path is gone when it is read
            raise UserError(str(error).replace(str(path), url)) from error
