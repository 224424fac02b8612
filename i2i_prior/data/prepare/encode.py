"""Encoding of examples in batches, while the next ones are decoded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from i2i_prior.data.examples import Field
from i2i_prior.data.prepare.examples import INPUTS, Dropped, MakeInputs

Made = dict[str, Any] | Dropped


@dataclass(frozen=True)
class Encoding:
    """Networks that encode examples, as functions."""

    fields: tuple[Field, ...]  # arrays that are added to each example
    inputs: MakeInputs
    # Inputs (batch, ...) by name -> the fields (batch, ...), arrays that may
    # still be computed on the device.
    encode: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
    batch: int  # examples encoded at once


def encoded(made: Iterable[Made], encoding: Encoding) -> Iterator[Made]:
    """Yields the examples with their arrays, in order.

    Batches are counted from the first example on, and the last one is padded,
    so that the result depends on nothing else and one compiled program does
    all. While a batch is on the device, the next one is assembled.
    """
    group: list[Made] = []
    on_device: tuple[list[Made], Mapping[str, Any]] | None = None
    count = 0
    for item in made:
        group.append(item)
        count += not isinstance(item, Dropped)
        if count == encoding.batch:
            started = group, _start(group, encoding)
            if on_device:
                yield from _arrived(*on_device, encoding.fields)
            on_device, group, count = started, [], 0
    if on_device:
        yield from _arrived(*on_device, encoding.fields)
    if count:
        yield from _arrived(group, _start(group, encoding), encoding.fields)
    else:
        yield from group


def _start(group: list[Made], encoding: Encoding) -> Mapping[str, Any]:
    examples = [item for item in group if not isinstance(item, Dropped)]
    inputs = [example.pop(INPUTS) for example in examples]
    inputs += inputs[:1] * (encoding.batch - len(inputs))
    return encoding.encode(
        {name: np.stack([each[name] for each in inputs]) for name in inputs[0]}
    )


def _arrived(
    group: list[Made], fields: Mapping[str, Any], wanted: tuple[Field, ...]
) -> Iterator[Made]:
    arrays = {name: np.asarray(array) for name, array in fields.items()}
    place = 0
    for item in group:
        if isinstance(item, Dropped):
            yield item
            continue
        found = {field.name: arrays[field.name][place] for field in wanted}
        place += 1
        bad = [n for n, array in found.items() if not np.isfinite(array).all()]
        if bad:
            yield Dropped(item["name"], f"has a {bad[0]} that is not finite")
        else:
            yield item | found
