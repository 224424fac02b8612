"""`weights`: what an evaluation needs of others, fetched once and kept."""

from __future__ import annotations

import argparse
import http.client
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from tqdm import tqdm

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features import inception_weights as inception

_LARGEST = 2**30  # bytes; the published file has 96 million
_PART = 2**20
_TIMEOUT = 30  # seconds without a byte


def weights(options: argparse.Namespace) -> int:
    """Reads Inception's weights, checks them, and stores them."""
    out = Path(options.out or inception.stored_file())
    if urllib.parse.urlparse(options.source).scheme in ("http", "https"):
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
            f"{found.label()}, never FID"
        )
    return 0


def _read_url(url: str) -> inception.InceptionWeights:
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(url, Path(folder))
        try:
            return inception.read_inception(path)
        except UserError as error:  # the path is gone when it is read
            raise UserError(str(error).replace(str(path), url)) from error


def fetch(url: str, folder: Path) -> Path:
    """Fetches a file into a folder, under the name that its URL has.

    Raises:
        UserError: it cannot be had, or only in part.
    """
    name = Path(urllib.parse.urlparse(url).path).name or "weights"
    target = folder / name
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT) as answer,
            target.open("wb") as file,
        ):
            promised = int(answer.headers.get("Content-Length") or 0)
            got = _copy(answer, file, promised, name)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason: object = error
        # of an answer, an HTTPError, the number tells more than its reason
        if type(error) is urllib.error.URLError:
            reason = error.reason
        raise UserError(
            f"cannot fetch {url} ({reason}); where there is no network, fetch "
            "it elsewhere and give the file: i2i-prior weights inception "
            "--from FILE."
        ) from error
    if promised and got != promised:
        raise UserError(
            f"{url} ended after {got} of {promised} bytes; try again."
        )
    return target


def _copy(answer: IO[bytes], file: IO[bytes], total: int, name: str) -> int:
    got = 0
    with tqdm(
        desc=name, total=total or None, unit="B", unit_scale=True, delay=2
    ) as bar:
        while part := answer.read(_PART):
            got += len(part)
            if got > _LARGEST:
                raise UserError(
                    f"{name} is larger than {_LARGEST >> 30} GiB; give the "
                    "URL of Inception's weights."
                )
            file.write(part)
            bar.update(len(part))
    return got
