"""Store of a checkpoint's samples: drawn once, in chunks that survive a kill.

    RUN/evaluations/STEP-DIGEST/settings.json   settings of the samples
                                000000.npy      uint8 (n, S, S, 3), n <= CHUNK
                                000512.npy      named after their first sample

DIGEST is of the settings, so samples of other settings have another folder.
Sample i depends on (seed, i) and its condition only, and chunks do not depend
on how many samples are drawn at once; so a run that was killed and started
again leaves the same bytes as one that was not.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path, remove_partial, write_json

# Samples a file: lost by a kill at most, and in memory at once.
CHUNK = 512
_REMEDY = "choose another place, then run the same command to go on"


@dataclass(frozen=True)
class SampleStore:
    """Samples of one setting, by chunk; missing ones are drawn and kept.

    All processes of a run call it; the first one writes. Without a folder
    (`settings_folder`) nothing is kept; the settings are plain values.
    """

    folder: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def chunk(
        self, start: int, count: int, draw: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """Samples `start` to `start + count`, uint8 (count, S, S, 3).

        Drawn by `draw` where they are not in the store; UserError where a file
        is damaged or the disk is full.
        """
        if self.folder is None:
            return draw()
        path = self.folder / f"{start:06d}.npy"
        # One process that does not see the file would draw, and all must.
        if not runtime.any_process(path.name, not path.exists()):
            return _read(path, count)
        images = draw()
        if runtime.is_primary():
            self._write(path, images)
        return images

    def _write(self, path: Path, images: np.ndarray) -> None:
        with write_errors(path, _REMEDY):
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True)
                write_json(path.parent / "settings.json", dict(self.settings))
            with atomic_path(path) as partial, partial.open("wb") as file:
                np.save(file, images, allow_pickle=False)


def settings_folder(
    evaluations: Path, step: int, settings: Mapping[str, Any]
) -> Path:
    """Folder of the samples of these settings, without files of a kill."""
    text = json.dumps(dict(settings), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = evaluations / f"{step:08d}-{digest}"
    if folder.is_dir() and runtime.is_primary():
        remove_partial(folder)
    return folder


def write_npz(path: Path, folder: Path) -> None:
    """Writes the samples of a store as ADM's evaluator reads them.

    That is an npz whose one array is arr_0, uint8 (N, H, W, 3). UserError where
    it cannot be written.
    """
    files = sorted(folder.glob("*.npy"), key=lambda file: int(file.stem))
    chunks = [np.load(file, mmap_mode="r") for file in files]
    shape = (sum(map(len, chunks)), *chunks[0].shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    # ZipInfo has a fixed date: the same images are the same bytes.
    info = zipfile.ZipInfo("arr_0.npy")
    with (
        write_errors(path, _REMEDY),
        atomic_path(path) as partial,
        zipfile.ZipFile(partial, "w") as archive,
        archive.open(info, "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(entry, header)  # type: ignore[arg-type]
        for images in chunks:
            entry.write(images.tobytes())


def _read(path: Path, count: int) -> np.ndarray:
    remedy = "delete it, and it is drawn again"
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count:
        raise UserError(
            f"{path} holds {images.dtype} {images.shape}, not {count} "
            f"samples; {remedy}"
        )
    return images
