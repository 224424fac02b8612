"""`i2i-prior fid`: two sets of images, or their statistics, compared."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.lpips import Lpips
from i2i_prior.evaluation.features.registry import open_extractor
from i2i_prior.evaluation.metrics import (
    CLIP_SCORE,
    check_count,
    check_metrics,
    check_sizes,
    measure,
    named_taps,
    needs,
)
from i2i_prior.evaluation.pairs import PAIRS, measure_pairs, pair_functions
from i2i_prior.evaluation.result import extremes_picture, line, write_json
from i2i_prior.evaluation.sets.collect import BLOCKS, Collected
from i2i_prior.evaluation.sets.image_sets import ImageSet
from i2i_prior.evaluation.sets.reference import (
    open_place,
    open_side,
    provenance,
)
from i2i_prior.evaluation.sets.statistics_files import save_statistics
from i2i_prior.evaluation.values import CAPTIONS
from i2i_prior.io.disk import (
    check_output,
    write_errors,
)
from i2i_prior.io.files import atomic_path
from i2i_prior.io.progress import (
    Progress,
)
from i2i_prior.report import image_grid


def compare_sets(options: argparse.Namespace) -> int:
    """Prints one line; writes what the options name."""
    metrics = _metrics(options)
    _check_options(options)
    places = [
        open_place(
            place,
            size=options.size,
            num=options.num,
            skip_broken=options.skip_broken,
        )
        for place in (options.reference, options.generated)
    ]
    reference, generated = places
    # Before any work; headers are read, so mixed sizes show here too.
    sizes = [p.shape() if isinstance(p, ImageSet) else None for p in places]
    check_sizes(*sizes)
    if options.picture and not all(isinstance(p, ImageSet) for p in places):
        raise UserError(
            "--picture shows images of both sides; give images, not statistics."
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
        result, save = _by_features(options, reference, generated, of_features)
    if of_pairs:
        weights = options.lpips_weights
        result = _by_pairs(result, reference, generated, of_pairs, weights)
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    try:
        if options.json:
            write_json(options.json, result)
        save()
    finally:  # a full disk does not take the number away
        print(line(result))
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
    metrics = [name.strip() for name in options.metrics.split(",")]
    check_metrics(metrics, PAIRS)
    return list(dict.fromkeys(metrics))


def _by_features(
    options: argparse.Namespace,
    reference: ImageSet | Path,
    generated: ImageSet | Path,
    metrics: list[str],
) -> tuple[dict[str, Any], Callable[[], None]]:
    """The result, and what writes the other files that options name."""
    extractor = open_extractor(
        options.features,
        options.preset,
        weights=options.weights,
        taps=named_taps(metrics),
    )
    wanted = needs(metrics, extractor)
    more = options.picture or options.save_features
    always = (extractor.first,) if more else ()

    def side(
        what: str, place: ImageSet | Path, keep: tuple[str, ...], blocks: int
    ) -> Collected:
        total = len(place) if isinstance(place, ImageSet) else 0
        progress = Progress(total, description=what, write=total > 0)
        found = open_side(
            place,
            extractor,
            moments=wanted.moments,
            keep=tuple(dict.fromkeys([*always, *keep])),
            blocks=blocks,
            cached=not options.no_cache,
            batch_size=options.batch_size,
            progress=lambda done, _: progress.update(done),
        )
        progress.close()
        return found

    captions = _captions(generated) if CLIP_SCORE in metrics else {}
    if isinstance(generated, ImageSet):
        check_count(metrics, extractor, len(generated))
    known = side("reference", reference, wanted.reference, 1)
    if isinstance(generated, ImageSet):
        check_sizes(known.size, generated.shape())
    drawn = side("generated", generated, wanted.generated, BLOCKS)
    if captions:
        from i2i_prior.evaluation.features.vision_encoders import embed_captions

        assert isinstance(generated, ImageSet)
        texts = [captions[index] for index in generated.used]
        drawn.features[CAPTIONS] = embed_captions(options.weights, texts)
    result = measure(known, drawn, extractor, metrics)

    def save() -> None:
        _save(options, known, drawn, extractor)
        if not options.picture:
            return
        assert isinstance(reference, ImageSet)
        assert isinstance(generated, ImageSet)
        sheet = extremes_picture(
            *(known, drawn, extractor.first, reference.image, generated.image)
        )
        with write_errors(options.picture):
            image_grid.save_png(options.picture, sheet)

    return result, save


def _captions(generated: ImageSet | Path) -> dict[int, str]:
    if not isinstance(generated, ImageSet):
        raise UserError(
            f"{CLIP_SCORE} needs images with captions; give them in place of "
            f"{generated}."
        )
    return generated.captions()


def _by_pairs(
    result: dict[str, Any],
    reference: ImageSet | Path,
    generated: ImageSet | Path,
    metrics: list[str],
    lpips_weights: str | None,
) -> dict[str, Any]:
    if not isinstance(reference, ImageSet) or not isinstance(
        generated, ImageSet
    ):
        raise UserError(
            f"{' and '.join(metrics)} compare images one by one; give images "
            "on both sides, not statistics."
        )
    if len(reference) != len(generated):
        raise UserError(
            f"{' and '.join(metrics)} need pairs, but there are "
            f"{len(reference)} and {len(generated)} images; give sets of the "
            "same images in the same order."
        )
    functions = pair_functions(metrics, lpips_weights)
    progress = Progress(len(generated), description="pairs")
    found = measure_pairs(
        reference.batches(), generated.batches(), functions, progress.update
    )
    progress.close()
    if reference.broken or generated.broken:
        raise UserError(
            f"{' and '.join(metrics)} need every pair, and some images cannot "
            "be read; mend or remove them on both sides."
        )
    facts = {"hash": reference.state(), **provenance(reference, None)}
    identities = {
        name: dict(function.identity)
        for name, function in functions.items()
        if isinstance(function, Lpips)
    }
    return {
        "reference": facts,
        "num_samples": len(generated),
        **result,
        "networks": identities,
        "metrics": {**result["metrics"], **found},
    }


def _save(
    options: argparse.Namespace,
    reference: Collected,
    generated: Collected,
    extractor: Extractor,
) -> None:
    if options.save_statistics:
        save_statistics(Path(options.save_statistics), reference)
    if not options.save_features:
        return
    path = Path(options.save_features)
    facts = {"identity": dict(extractor.identity), "tap": extractor.first}
    with (
        write_errors(path),
        atomic_path(path) as beside,
        beside.open("wb") as file,
    ):
        np.savez(
            file,
            reference=reference.features[extractor.first],
            generated=generated.features[extractor.first],
            provenance=np.str_(json.dumps(facts)),
        )
