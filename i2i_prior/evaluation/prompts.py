"""Ordered lists of prompts, such as COCO-30k.

There is no agreed list of the 30 000 captions, and metrics of one model on two
draws differ; so a result records the hash of its ids and captions.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from i2i_prior.errors import UserError


class Prompt(NamedTuple):
    """Caption and its id in the list."""

    id: str
    caption: str


def read_prompts(path: str | Path) -> list[Prompt]:
    """Reads a list of prompts.

    The file is UTF-8 text, a prompt a line, its id the number of the line from
    0; or, as *.jsonl, a JSON object {"id": text or number, "caption": text} a
    line. Empty lines are skipped. UserError names the first line that is no
    prompt, or repeats an id.
    """
    path = Path(path)
    try:
        # Not splitlines, which splits at characters that captions may hold.
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(
            f"cannot read prompts from {path} ({reason})"
        ) from error
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        prompt = Prompt(str(number), line.strip())
        if path.suffix == ".jsonl":
            prompt = _parse(line, f"line {number + 1} of {path}")
        if prompt.id in prompts:
            raise UserError(
                f"line {number + 1} of {path} repeats the id {prompt.id}; "
                "give every prompt an id of its own"
            )
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"{path} holds no prompts; write one a line")
    return list(prompts.values())


def subset(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """Random subset of `count` prompts, in the order of the list.

    A greater `count` of the same seed contains the smaller one. UserError where
    there are fewer.
    """
    if not 1 <= count <= len(prompts):
        raise UserError(
            f"{count} prompts of {len(prompts)} are asked for; ask for 1 to "
            f"{len(prompts)}"
        )
    order = np.random.default_rng(seed).permutation(len(prompts))
    return [prompts[index] for index in sorted(order[:count].tolist())]


def prompt_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts, as hex, over [[id, caption], ...] in order.

    The hashed text is compact JSON in UTF-8, non-ASCII characters unescaped.
    """
    text = json.dumps(prompts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(line: str, place: str) -> Prompt:
    try:
        found = json.loads(line)
        name, caption = found["id"], found["caption"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{place} is no prompt; write {{"id": ..., "caption": ...}}'
        ) from error
    known = isinstance(name, str | int) and not isinstance(name, bool)
    if not known or not isinstance(caption, str) or not caption.strip():
        raise UserError(
            f"{place} has no usable id and caption; the id is a text or a "
            "whole number, the caption a text"
        )
    return Prompt(str(name), caption.strip())
