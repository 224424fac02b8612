"""Images of a TensorFlow Datasets data set, read without TensorFlow."""

from typing import Any

import numpy as np

from i2i_prior.data.record import CAPTIONS, Record, fingerprint_of, text_fields
from i2i_prior.data.sources import places
from i2i_prior.errors import UserError


class TfdsSource:
    """One split of a data set that TFDS has prepared as array_record.

    Images stay encoded. An integer `label` and text in `caption`, `captions`
    or `text` become fields.

    `name` is NAME/SPLIT, where NAME may be name/config:version, and SPLIT a
    part, as in `flowers/train[:80%]`; `data_dir` is the folder of the data
    sets, "" for TFDS' own; `image` is the feature that holds the image.
    UserError if the data set is missing, not in array_record, or has no such
    split or image.
    """

    def __init__(
        self, name: str, data_dir: str = "", image: str = "image"
    ) -> None:
        dataset, _, split = name.rpartition("/")
        if not dataset or not split:
            raise UserError(
                f"Image source tfds:{name} lacks a split: write NAME/SPLIT, "
                "as in tfds:oxford_flowers102/train."
            )
        self._name, self._image = name, image
        builder = _builder(dataset, data_dir)
        self._features = _wanted(builder.info.features, name, image)
        self._source = _open(builder, name, split)
        if not len(self._source):
            raise UserError(f"Split tfds:{name} is empty: give another one.")
        shards = builder.info.splits[split].file_instructions
        self._shards = [
            (f"{str(s.filename).rpartition('/')[2]} {s.skip}", int(s.take))
            for s in shards
        ]
        # Its name, configuration and version.
        self._full_name = str(builder.info.full_name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        from tensorflow_datasets import decode

        index = range(len(self))[index]
        try:
            example = self._features.deserialize_example_np(
                self._source[index],
                decoders={self._image: decode.SkipDecoding()},
            )
        # Damaged bytes make many decoders raise.
        except Exception as error:
            raise OSError(5, places.one_line(error)) from error
        data = example[self._image]
        if not isinstance(data, bytes):
            raise OSError(5, f"its {self._image} is no encoded image")
        return Record(f"{self._name}/{index}", data, _fields(example))

    def fingerprint(self) -> str:
        what = [(self._full_name, 0), (f"image {self._image}", 0)]
        names, sizes = zip(*what, *self._shards, strict=True)
        return fingerprint_of("tfds", names, sizes)


def _builder(dataset: str, data_dir: str) -> Any:
    # This builder never downloads or generates, and needs no TensorFlow.
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(
            dataset, data_dir=places.absolute(data_dir) if data_dir else None
        )
    except Exception as error:
        where = f"in {data_dir}" if data_dir else "in TFDS' own folder"
        raise UserError(
            f"Data set tfds:{dataset} is not prepared {where}: run tfds build "
            f"{dataset} --file_format=array_record, or name its folder as "
            "#data_dir=FOLDER."
        ) from error


def _open(builder: Any, name: str, split: str) -> Any:
    """The serialised examples of a split, by number."""
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(
            split=split,
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        )
    except Exception as error:
        raise UserError(
            f"Split tfds:{name} cannot be read ({places.one_line(error)}): "
            "it must be one of the data set, prepared with "
            "--file_format=array_record."
        ) from error


def _wanted(features: Any, name: str, image: str) -> Any:
    """The features that are read; others may need TensorFlow."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    found = sorted(k for k, f in features.items() if isinstance(f, kinds.Image))
    if image not in found:
        known = ", ".join(found) or "none"
        raise UserError(
            f"Data set tfds:{name} has no image {image}: its images are "
            f"{known}, chosen by #image=KEY."
        )
    keep = {k for k in ("label", *CAPTIONS, image) if k in features}
    return kinds.FeaturesDict({key: features[key] for key in sorted(keep)})


def _fields(example: dict[str, Any]) -> dict[str, Any]:
    fields = text_fields(None, example.get("label"))
    for key in reversed(CAPTIONS):  # the first one wins
        texts = np.atleast_1d(np.asarray(example.get(key, []), object)).tolist()
        captions = [
            text.decode("utf-8", "replace") if isinstance(text, bytes) else text
            for text in texts
        ]
        fields |= text_fields(captions, None)
    return fields
