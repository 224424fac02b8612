"""`i2i-prior fid`: two sets of images, or their statistics, compared."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior import pictures
from i2i_prior.data.prepare.files import written
from i2i_prior.errors import UserError
from i2i_prior.evaluation.collect import BLOCKS, Collected
from i2i_prior.evaluation.extractor import Extractor
from i2i_prior.evaluation.extractors import open_extractor
from i2i_prior.evaluation.image_sets import ImageSet
from i2i_prior.evaluation.lpips import Lpips
from i2i_prior.evaluation.metrics import (
    check_count,
    check_metrics,
    check_sizes,
    measure,
    named_taps,
    needs,
)
from i2i_prior.evaluation.pairs import PAIRS, measure_pairs, pair_functions
from i2i_prior.evaluation.reference import (
    open_place,
    open_side,
    provenance,
)
from i2i_prior.evaluation.result import extremes_picture, line, write_json
from i2i_prior.evaluation.statistics_files import save_statistics
from i2i_prior.metrics import Progress


def fid(options: argparse.Namespace) -> int:
    """Prints one line; writes what the options name."""
    metrics = _metrics(options)
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
    result: dict[str, Any] = {
        "metrics": {},
        "intervals": {},
        "extractor": None,
        "preset": None,
        "notes": [],
    }
    if of_features:
        result = _by_features(options, reference, generated, of_features)
    if of_pairs:
        weights = options.lpips_weights
        result = _by_pairs(result, reference, generated, of_pairs, weights)
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        write_json(options.json, result)
    print(line(result))
    return 0


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
) -> dict[str, Any]:
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

    if isinstance(generated, ImageSet):
        check_count(metrics, extractor, len(generated))
    known = side("reference", reference, wanted.reference, 1)
    if isinstance(generated, ImageSet):
        check_sizes(known.size, generated.shape())
    drawn = side("generated", generated, wanted.generated, BLOCKS)
    result = measure(known, drawn, extractor, metrics)
    _save(options, known, drawn, extractor)
    if options.picture:
        assert isinstance(reference, ImageSet)
        assert isinstance(generated, ImageSet)
        sheet = extremes_picture(
            *(known, drawn, extractor.first, reference.image, generated.image)
        )
        pictures.save_png(options.picture, sheet)
    return result


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as beside, beside.open("wb") as file:
            np.savez(
                file,
                reference=reference.features[extractor.first],
                generated=generated.features[extractor.first],
                provenance=np.str_(json.dumps(facts)),
            )
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); choose another place."
        ) from error
