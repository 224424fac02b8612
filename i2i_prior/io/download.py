"""Download of one file, with a progress bar."""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tqdm import tqdm

from i2i_prior.errors import UserError

_PART = 2**20  # bytes
_TIMEOUT = 30  # seconds without a byte


def download(url: str, folder: Path, largest: int) -> Path:
    """Downloads a file into a folder, under the name that its URL has.

    Raises:
      UserError: if it cannot be downloaded, is larger than `largest` bytes, or
        ends too early.
    """
    name = Path(urllib.parse.urlparse(url).path).name or "weights"
    target = folder / name
    units = {"unit": "B", "unit_scale": True, "delay": 2}
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT) as answer,
            target.open("wb") as file,
            tqdm(desc=name, **units) as bar,
        ):
            promised = int(answer.headers.get("Content-Length") or 0)
            bar.total = promised or None
            while part := answer.read(_PART):
                bar.update(file.write(part))
                if file.tell() > largest:
                    raise UserError(
                        f"{name} is larger than {largest >> 30} GiB; give the "
                        "URL of Inception's weights."
                    )
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason: object = error
        # The number of an HTTPError says more than its reason.
        if type(error) is urllib.error.URLError:
            reason = error.reason
        raise UserError(
            f"cannot fetch {url} ({reason}); where there is no network, fetch "
            "it elsewhere and give the file: i2i-prior weights inception "
            "--from FILE."
        ) from error
    got = target.stat().st_size
    if promised and got != promised:
        raise UserError(
            f"{url} ended after {got} of {promised} bytes; try again."
        )
    return target
