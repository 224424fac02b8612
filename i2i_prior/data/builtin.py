"""`builtin:photos`: the photographs inside scikit-image and scikit-learn.

Ten colour photographs that every installation already holds, so that a first
run needs no download. Seven are for training, three are held out. Neither
package is imported, only their files are read.
"""

import importlib.util
import os
import warnings

import numpy as np

from i2i_prior.data.decode_image import decode
from i2i_prior.data.process_cache import ProcessCache
from i2i_prior.data.record import Record, fingerprint_of
from i2i_prior.errors import UserError

# package, folder inside it
_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", os.path.join("datasets", "images"))

# Without motorcycle_right.png, the same scene from a second camera.
TRAIN = {
    "chelsea.png": _SKIMAGE,
    "china.jpg": _SKLEARN,
    "hubble_deep_field.jpg": _SKIMAGE,
    "ihc.png": _SKIMAGE,
    "motorcycle_left.png": _SKIMAGE,
    "retina.jpg": _SKIMAGE,
    "rocket.jpg": _SKIMAGE,
}
HELD_OUT = {
    "astronaut.png": _SKIMAGE,
    "coffee.png": _SKIMAGE,
    "flower.jpg": _SKLEARN,
}
_SETS = {"photos": TRAIN, "photos/heldout": HELD_OUT}


class PhotoSource:
    """The photographs of one set, decoded once per process and kept.

    Records hold read-only pixels (H, W, 3) uint8, because decoding a megapixel
    PNG again for each crop would cost more than the crop. UserError if the set
    is unknown, or no photograph is installed.
    """

    def __init__(self, name: str) -> None:
        if name not in _SETS:
            known = " or ".join(f"builtin:{known}" for known in _SETS)
            raise UserError(
                f"Image source builtin:{name} does not exist: use {known}."
            )
        self._paths = _installed(_SETS[name])
        if not self._paths:
            raise UserError(
                f"Image source builtin:{name} finds none of its photographs: "
                "install scikit-image and scikit-learn."
            )
        self.names = [os.path.basename(path) for path in self._paths]
        self._pixels = ProcessCache()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        path = self._paths[index]
        pixels = self._pixels.get(path, lambda: _decoded(path))
        return Record(self.names[index], pixels)

    def fingerprint(self) -> str:
        sizes = [os.stat(path).st_size for path in self._paths]
        return fingerprint_of("builtin", self.names, sizes)


def _decoded(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        pixels = decode(Record(path, file.read()))
    pixels.setflags(write=False)
    return pixels


def _installed(photos: dict[str, tuple[str, str]]) -> list[str]:
    """Paths of the installed photographs; warns of missing ones."""
    paths = []
    for name, (package, folder) in photos.items():
        # Found without importing the package.
        spec = importlib.util.find_spec(package)
        roots = spec.submodule_search_locations if spec else None
        path = os.path.join(roots[0], folder, name) if roots else ""
        if os.path.isfile(path):
            paths.append(path)
        else:
            warnings.warn(
                f"builtin:photos lacks {name}: the installed "
                f"{package} does not hold it.",
                stacklevel=4,
            )
    return paths
