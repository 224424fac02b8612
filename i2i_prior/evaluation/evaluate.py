"""A checkpoint's numbers: does it listen, and how far is it from the data?

One pass over the samples does it all: while their features stream into
statistics, each group of conditions is matched with its samples, and the best
and worst conditions are kept for a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from i2i_prior.data.sources import Source
from i2i_prior.errors import UserError
from i2i_prior.evaluation.condition_matching import (
    ConditionMatcher,
    Embed,
    Embedder,
    extractor_embedder,
)
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.registry import (
    VISION,
    open_extractor,
)
from i2i_prior.evaluation.metrics import (
    CLIP_SCORE,
    METRICS,
    Needs,
    check_metrics,
    measure,
    named_taps,
    needs,
)
from i2i_prior.evaluation.sample_chunks import (
    Chunk,
    held_out,
)
from i2i_prior.evaluation.sets.collect import Collected, collect
from i2i_prior.evaluation.sets.reference import open_side
from i2i_prior.evaluation.values import CAPTIONS

# Of a condition and its sample, beside those of `metrics.METRICS`: by
# thumbnails, by the run's own encoder, by the extractor of the distances.
OWN = ("match", "fidelity", "fidelity_features")
NETWORKS = ("inception", *VISION)  # features that have weights


@dataclass(frozen=True)
class EvalSpec:
    """What is measured.

    Attributes:
      extractor: of the features that samples and reference are compared by.
      metrics: over them, keys of `metrics.METRICS`.
      own: of OWN.
    """

    extractor: Extractor
    metrics: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def needs(self) -> Needs:
        """What has to be collected."""
        return needs(self.metrics, self.extractor)

    @property
    def truncate(self) -> bool:
        """Whether the protocol cuts grey levels off, see `Generator`."""
        protocol = self.extractor.identity.get("preset") or {}
        return protocol.get("rounding") == "truncate"


def wanted(config: Any) -> EvalSpec:
    """What the `evaluate` section of a config asks for.

    Raises:
      UserError: for an unknown metric, or features that are not there.
    """
    section = config.evaluate
    own, metrics = split_metrics(section.metrics)
    weights = section.weights or None
    extractor = open_extractor(
        section.features,
        section.preset,
        weights=weights,
        taps=named_taps(metrics),
    )
    needs(metrics, extractor)  # refuses those that do not exist over it
    return EvalSpec(extractor, metrics, own)


def split_metrics(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """ "fd,match" -> ("match",), ("fd",): those of OWN, those of METRICS.

    Raises:
      UserError: for a name that is neither, or none at all.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    check_metrics(names, OWN)
    if not names:
        raise UserError(
            "no metric is asked for; use some of "
            f"{', '.join((*METRICS, *OWN))}, with commas between."
        )
    own = tuple(name for name in dict.fromkeys(names) if name in OWN)
    return own, tuple(name for name in dict.fromkeys(names) if name in METRICS)


def evaluate(
    chunks: Iterable[Chunk],
    wanted: EvalSpec,
    reference: Callable[[], Collected],
    embed: Embed | None = None,
    *,
    mesh: Mesh | None = None,
    batch_size: int = 32,
    looks: Sequence[Callable[[Chunk], Any]] = (),
    captions: Callable[[], np.ndarray] | None = None,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Measures samples while they come.

    All processes of a run call alike and get the same result.

    Args:
      chunks: the samples.
      wanted: which metrics; those of OWN want chunks with conditions.
      reference: gives the other side, with what `wanted.needs`.
      embed: what "fidelity" compares by, see `embedder`.
      mesh, batch_size: of the extractor, see `collect`.
      looks: called with every chunk.
      captions: embeds those of the samples, for "clip_score".

    Returns:
      the result of `metrics.measure` with the metrics of OWN, and a picture
      of the best and worst conditions where there is one.

    Raises:
      UserError: where the sides do not compare.
    """
    scored = CLIP_SCORE in wanted.metrics
    if scored and captions is None:
        raise UserError(
            f"{CLIP_SCORE} needs captions, and samples of images have none; "
            "evaluate with --prompts FILE."
        )
    eyes = []
    if "fidelity" in wanted.own and embed is not None:
        eyes.append(Embedder("fidelity", embed, views=True))
    if "fidelity_features" in wanted.own:
        eyes.append(extractor_embedder(wanted.extractor, batch_size))
    listening = ConditionMatcher(eyes, "match" in wanted.own)
    looks = [*looks, listening.add] if wanted.own else looks
    need = wanted.needs
    generated = collect(
        every(chunks, looks),
        wanted.extractor,
        mesh=mesh,
        batch_size=batch_size,
        moments=need.moments,
        keep=need.generated,
        share=(jax.process_index(), jax.process_count()),
    )
    if scored and captions is not None:
        generated.features[CAPTIONS] = captions()
    result = measure(reference(), generated, wanted.extractor, wanted.metrics)
    metrics, intervals = listening.finish()
    result["metrics"] = metrics | result["metrics"]
    result["intervals"] = intervals | result["intervals"]
    return result, listening.picture()


def reference_side(
    config: Any, source: Source, wanted: EvalSpec, mesh: Mesh | None = None
) -> Collected:
    """What samples are compared with: evaluate.reference, where it is given,
    else the held-out crops that they are of.

    Raises:
      UserError: where it is unusable, or does not fit what is wanted.
    """
    section, need = config.evaluate, wanted.needs
    if section.reference:
        return open_side(
            section.reference,
            wanted.extractor,
            moments=need.moments,
            keep=need.reference,
            mesh=mesh,
            batch_size=section.batch_size,
        )
    count = section.num_samples // section.per_condition
    chunks = (Chunk(i[:, None]) for i, _ in held_out(config, source, count))
    side = collect(
        every(chunks, ()),
        wanted.extractor,
        mesh=mesh,
        batch_size=section.batch_size,
        moments=need.moments,
        keep=need.reference,
        share=(jax.process_index(), jax.process_count()),
    )
    side.provenance = {
        "file": config.data.held_out or config.data.source,
        "format": "held-out crops",
        "identity": dict(wanted.extractor.identity),
        "fingerprint": source.fingerprint(),
    }
    return side


def every(
    chunks: Iterable[Chunk], looks: Sequence[Callable[[Chunk], Any]]
) -> Iterator[np.ndarray]:
    """Shows each chunk to all that look, and hands on its samples.

    Yields:
      uint8 (m, S, S, 3): the samples whose number is this process' modulo
      the number of processes.
    """
    process, processes = jax.process_index(), jax.process_count()
    start = 0
    for chunk in chunks:
        for look in looks:
            look(chunk)
        flat = chunk.samples.reshape(-1, *chunk.samples.shape[2:])
        yield flat[(process - start) % processes :: processes]
        start += len(flat)
