"""Evaluation of generated images, from batches or from a running sampler.

One pass over the samples does it all: while their features stream into
statistics, each group of conditions is matched with its samples, and the best
and worst conditions are kept for a picture.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from i2i_prior.data.record import Source
from i2i_prior.errors import UserError
from i2i_prior.evaluation.comparison import Comparison
from i2i_prior.evaluation.condition_matching import (
    ConditionMatcher,
    Embedder,
    feature_embedder,
)
from i2i_prior.evaluation.eval_spec import EvalSpec, unique
from i2i_prior.evaluation.measures.intervals import Interval
from i2i_prior.evaluation.metrics import CAPTIONS, METRICS
from i2i_prior.evaluation.sampling import SampleChunk, held_out_examples
from i2i_prior.evaluation.sets.collect import Collected, collect
from i2i_prior.evaluation.sets.reference import open_side

Consumer = Callable[[SampleChunk], Any]


def evaluate_samples(
    chunks: Iterable[SampleChunk],
    spec: EvalSpec,
    reference: Callable[[], Collected],
    encoder: Embedder | None = None,
    *,
    batch_size: int = 32,
    captions: Callable[[], np.ndarray] | None = None,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Measures samples while they are drawn.

    All processes of a run call it and get the same result.

    Args:
      chunks: the samples; with their conditions for condition metrics.
      reference: collects the other side, with what `spec` needs.
      encoder: embeds for "fidelity", see `encoder_embedder`.
      batch_size: of the extractor, see `collect`.
      captions: embeds those of the samples, for "clip_score".

    Returns:
      the result of `compare`, also for errors, and a picture of the best and
      worst conditions where they were matched by an embedding.
    """
    if spec.captions and captions is None:
        raise UserError(
            f"{spec.captions[0]} needs captions, and samples of images have "
            "none; evaluate with --prompts FILE."
        )
    matcher = ConditionMatcher(
        {n: m for n in spec.metrics if (m := METRICS[n].match) is not None},
        encoder,
        feature_embedder(spec.extractor, batch_size),
    )
    consume = matcher.add if matcher.functions else None
    generated = _collect(chunks, spec, spec.generated, batch_size, consume)
    if spec.captions and captions is not None:
        generated.features[CAPTIONS] = captions()
    result = compare(spec, reference(), generated, matcher.finish())
    return result, matcher.picture()


def collect_reference(
    config: ConfigDict,
    source: Source | None,
    spec: EvalSpec,
    size: int | None = None,
) -> Collected:
    """Collects evaluate.reference; without one, the crops of the source.

    Images of the reference are brought to `size`, where it is given. UserError
    where it is unusable, or lacks what the metrics need.
    """
    section = config.evaluate
    if section.reference:
        return open_side(
            section.reference,
            spec.extractor,
            size=size,
            moments=spec.moments,
            keep=spec.reference,
            batch_size=section.batch_size,
        )
    assert source is not None
    count = section.num_samples // section.per_condition
    examples = held_out_examples(config, source, count)
    chunks = (SampleChunk(one["image"][:, None]) for one in examples)
    side = _collect(chunks, spec, spec.reference, section.batch_size)
    side.provenance = {
        "file": config.data.held_out or config.data.source,
        "format": "held-out crops",
        "identity": dict(spec.extractor.identity),
        "fingerprint": source.fingerprint(),
    }
    return side


def _collect(
    chunks: Iterable[SampleChunk],
    spec: EvalSpec,
    keep: Sequence[str],
    batch_size: int,
    consume: Consumer | None = None,
) -> Collected:
    return collect(
        process_share(chunks, consume),
        spec.extractor,
        batch_size=batch_size,
        moments=spec.moments,
        keep=keep,
        share=(jax.process_index(), jax.process_count()),
    )


def process_share(
    chunks: Iterable[SampleChunk], consume: Consumer | None = None
) -> Iterator[np.ndarray]:
    """Calls `consume` with each chunk, and yields samples, uint8 (m, S, S, 3).

    They are those whose number is this process' modulo that of processes.
    """
    process, processes = jax.process_index(), jax.process_count()
    start = 0
    for chunk in chunks:
        if consume is not None:
            consume(chunk)
        samples = chunk.flat
        yield samples[(process - start) % processes :: processes]
        start += len(samples)


def compare(
    spec: EvalSpec,
    reference: Collected,
    generated: Collected,
    matches: Mapping[str, list[Any]] | None = None,
) -> dict[str, Any]:
    """Computes metrics of generated images, with provenance and notes.

    Both sides are collected with what `spec` needs; condition metrics take
    the `matches` of `ConditionMatcher`.

    Returns:
        "metrics": numbers by name; "intervals": {"low", "high", "level",
        "method"} of those that have one; "extractor": its name, label and
        identity; "preset": its record or None; "reference", "generated":
        provenance; "num_samples"; "notes": sentences about what limits the
        numbers.

    Raises:
        UserError: the sides do not compare, or a metric cannot be taken of
            them.
    """
    check_sizes(reference.size, generated.size)
    _check_spread(reference)
    extractor = spec.extractor
    comparison = Comparison(reference, generated, extractor, matches or {})
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in spec.metrics:
            found |= METRICS[name].function(comparison)
    intervals = {n: v for n, v in found.items() if isinstance(v, Interval)}
    notes = [
        *(str(w.message) for w in caught if w.category is UserWarning),
        *(side.provenance.get("note") for side in (reference, generated)),
        *(
            f"{name} has no interval: the samples came as statistics, or are "
            "fewer than 20"
            for name in (extractor.label, comparison.result_name("sFID"))
            if name in found and name not in intervals
        ),
    ]
    return {
        "metrics": {n: float(getattr(v, "value", v)) for n, v in found.items()},
        "intervals": {n: v.record() for n, v in intervals.items()},
        "extractor": {
            "name": extractor.name,
            "label": extractor.label,
            **extractor.identity,
        },
        "preset": dict(comparison.preset) or None,
        "reference": _provenance(reference),
        "generated": _provenance(generated),
        "num_samples": generated.count,
        "notes": list(unique(filter(None, notes))),
    }


def check_sizes(
    reference: tuple[int, int] | None, generated: tuple[int, int] | None
) -> None:
    """Refuses sides of two known resolutions, (height, width)."""
    if reference and generated and reference != generated:
        (h, w), (other_h, other_w) = reference, generated
        raise UserError(
            f"the reference has images of {w} x {h}, the other side of "
            f"{other_w} x {other_h}, which do not compare; give --size N to "
            "bring both to N x N."
        )


def _check_spread(reference: Collected) -> None:
    """Refuses distances to one point, small numbers without a meaning."""
    for tap, found in reference.statistics.items():
        if found.count > 1 and not found.moment.any():
            raise UserError(
                f"all images of the reference have the same features '{tap}'; "
                "look at the images and at what computes the features."
            )


def _provenance(side: Collected) -> dict[str, Any]:
    return {
        **side.provenance,
        "num_images": side.count,
        "hash": side.hash,
        "size": side.size,
    }
