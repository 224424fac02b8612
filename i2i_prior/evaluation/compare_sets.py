"""`i2i-prior fid`: comparison of two sets of images, or their statistics."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.eval_spec import EvalSpec, check_metrics, unique
from i2i_prior.evaluation.evaluate import check_sizes, compare
from i2i_prior.evaluation.features.lpips import Lpips
from i2i_prior.evaluation.metrics import CAPTIONS, METRICS
from i2i_prior.evaluation.pairs import PAIRS, measure_pairs, pair_functions
from i2i_prior.evaluation.result import (
    extremes_picture,
    format_line,
    write_result,
)
from i2i_prior.evaluation.sets.collect import BLOCKS, Collected
from i2i_prior.evaluation.sets.image_sets import ImageSet
from i2i_prior.evaluation.sets.reference import (
    open_place,
    open_side,
    provenance,
)
from i2i_prior.evaluation.sets.statistics_files import save_statistics
from i2i_prior.io.disk import check_output, write_errors
from i2i_prior.io.files import atomic_path
from i2i_prior.io.progress import Progress
from i2i_prior.report import image_grid

Place = ImageSet | Path  # of images, or of a file of statistics


def compare_sets(options: argparse.Namespace) -> int:
    """Prints one line, and writes the files that are given."""
    metrics = _metrics(options)
    _check_options(options)
    reference, generated = (
        open_place(
            place,
            size=options.size,
            num=options.num,
            skip_broken=options.skip_broken,
        )
        for place in (options.reference, options.generated)
    )
    # Before any work; headers are read, so mixed sizes show here too.
    sizes = [
        place.shape() if isinstance(place, ImageSet) else None
        for place in (reference, generated)
    ]
    check_sizes(*sizes)
    if options.picture:
        _need_images(
            reference,
            generated,
            "--picture shows images of both sides; give images, not "
            "statistics.",
        )
    of_features = [name for name in metrics if name not in PAIRS]
    of_pairs = [name for name in metrics if name in PAIRS]
    files = options.picture, options.save_features, options.save_statistics
    if any(files) and not of_features:
        raise UserError(
            f"{' and '.join(metrics)} have no features to show or to save; add "
            "fd to --metrics, or leave out --picture and --save-."
        )
    result: dict[str, Any] = {
        "metrics": {},
        "intervals": {},
        "extractor": None,
        "preset": None,
        "notes": [],
    }
    save: Callable[[], None] = lambda: None  # noqa: E731
    if of_features:
        result, save = _compare_features(
            options, reference, generated, of_features
        )
    if of_pairs:
        weights = options.lpips_weights
        pairs = _compare_pairs(reference, generated, of_pairs, weights)
        result = {**pairs, **result, "networks": pairs["networks"]}
        result["metrics"] = {**result["metrics"], **pairs["metrics"]}
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    try:
        if options.json:
            with write_errors(options.json):
                write_result(options.json, result)
        save()
    finally:  # a full disk does not take the number away
        print(format_line(result))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    if options.batch_size < 1:
        raise UserError(
            f"--batch-size is {options.batch_size}; give 1 image or more."
        )
    for path, ending in (
        (options.json, ""),
        (options.picture, ".png"),
        (options.save_features, ".npz"),
        (options.save_statistics, ".npz"),
    ):
        if path:
            check_output(path, ending)


def _metrics(options: argparse.Namespace) -> list[str]:
    if not options.metrics:
        return ["fid" if options.features == "inception" else "fd"]
    metrics = unique(name.strip() for name in options.metrics.split(","))
    of_sets = (name for name in METRICS if METRICS[name].match is None)
    check_metrics(metrics, (*of_sets, *PAIRS))
    return list(metrics)


def _need_images(
    reference: Place, generated: Place, message: str
) -> tuple[ImageSet, ImageSet]:
    """Checks that both sides are images; UserError with the message."""
    if isinstance(reference, ImageSet) and isinstance(generated, ImageSet):
        return reference, generated
    raise UserError(message)


def _compare_features(
    options: argparse.Namespace,
    reference: Place,
    generated: Place,
    metrics: list[str],
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Result of set metrics, and a function that writes the other files."""
    spec = EvalSpec.open(
        metrics, options.features, options.preset, options.weights
    )
    first = spec.extractor.first
    more = options.picture or options.save_features
    always = (first,) if more else ()

    def side(
        name: str, place: Place, keep: tuple[str, ...], blocks: int
    ) -> Collected:
        total = len(place) if isinstance(place, ImageSet) else 0
        progress = Progress(total, description=name, write=total > 0)
        with contextlib.closing(progress):
            return open_side(
                place,
                spec.extractor,
                moments=spec.moments,
                keep=unique([*always, *keep]),
                blocks=blocks,
                cached=not options.no_cache,
                batch_size=options.batch_size,
                progress=progress.update,
            )

    captions: dict[int, str] = {}
    if isinstance(generated, ImageSet):
        captions = generated.captions() if spec.captions else {}
        spec.check_count(len(generated))
    elif spec.captions:
        raise UserError(
            f"{spec.captions[0]} needs images with captions; give them in "
            f"place of {generated}."
        )
    known = side("reference", reference, spec.reference, 1)
    if isinstance(generated, ImageSet):
        check_sizes(known.size, generated.shape())
    drawn = side("generated", generated, spec.generated, BLOCKS)
    if captions:
        from i2i_prior.evaluation.features.vision_encoders import embed_captions

        assert isinstance(generated, ImageSet)
        texts = [captions[index] for index in generated.used]
        drawn.features[CAPTIONS] = embed_captions(options.weights, texts)
    result = compare(spec, known, drawn)

    def save() -> None:
        if options.save_statistics:
            save_statistics(Path(options.save_statistics), known)
        if options.save_features:
            facts = {"identity": dict(spec.extractor.identity), "tap": first}
            path = Path(options.save_features)
            with (
                write_errors(path),
                atomic_path(path) as partial,
                partial.open("wb") as file,
            ):
                np.savez(
                    file,
                    reference=known.features[first],
                    generated=drawn.features[first],
                    provenance=np.str_(json.dumps(facts)),
                )
        if options.picture:
            assert isinstance(reference, ImageSet)
            assert isinstance(generated, ImageSet)
            sheet = extremes_picture(
                known, drawn, first, reference.image, generated.image
            )
            with write_errors(options.picture):
                image_grid.save_png(options.picture, sheet)

    return result, save


def _compare_pairs(
    reference: Place,
    generated: Place,
    metrics: list[str],
    lpips_weights: str | None,
) -> dict[str, Any]:
    """Result of metrics of pairs."""
    names = " and ".join(metrics)
    reference, generated = _need_images(
        reference,
        generated,
        f"{names} compare images one by one; give images on both sides, not "
        "statistics.",
    )
    if len(reference) != len(generated):
        raise UserError(
            f"{names} need pairs, but there are {len(reference)} and "
            f"{len(generated)} images; give sets of the same images in the "
            "same order."
        )
    functions = pair_functions(metrics, lpips_weights)
    progress = Progress(len(generated), description="pairs")
    with contextlib.closing(progress):
        found = measure_pairs(
            reference.batches(), generated.batches(), functions, progress.update
        )
    if reference.broken or generated.broken:
        raise UserError(
            f"{names} need every pair, and some images cannot be read; repair "
            "or remove them on both sides."
        )
    return {
        "reference": {"hash": reference.state(), **provenance(reference, None)},
        "num_samples": len(generated),
        "networks": {
            name: dict(function.identity)
            for name, function in functions.items()
            if isinstance(function, Lpips)
        },
        "metrics": found,
    }
