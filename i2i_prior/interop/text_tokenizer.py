"""The tokenizer of a text encoder, read by transformers from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError

# Any one of these files makes a folder a tokenizer's.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "vocab.json",
)


def find_tokenizer(weights: Path) -> Path | None:
    """The folder of the tokenizer that belongs to weights.

    Args:
      weights: a weight file or its folder. The tokenizer lies in the same
        folder or, in a diffusers pipeline, beside it: tokenizer_2/ is that
        of text_encoder_2/.

    Returns:
      None where neither folder has a tokenizer's files.
    """
    if not weights.exists():
        return None
    folder = weights.resolve()
    if weights.is_file():
        folder = folder.parent
    beside = folder.name.replace("text_encoder", "tokenizer")
    for candidate in (folder, folder.parent / beside):
        if any((candidate / name).is_file() for name in FILES):
            return candidate
    return None


def read_tokenizer(folder: Path | None) -> Any:
    """transformers' tokenizer; nothing is downloaded, no code is run.

    Raises:
      UserError: where there is no folder, transformers cannot read it, or
        transformers (for T5: or sentencepiece) is not installed.
    """
    if folder is None:
        raise UserError(
            "this text encoder has no tokenizer; give "
            "load_text_encoder(tokenizer=) the folder with its files"
        )
    try:
        from transformers import AutoTokenizer

        if not (folder / "tokenizer.json").is_file():
            _need_sentencepiece(folder)
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:
        raise UserError(
            f"reading a tokenizer needs more packages ({error}); "
            "pip install 'i2i-prior[text]'"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} holds no tokenizer that transformers can read ({error})"
        ) from error


def _need_sentencepiece(folder: Path) -> None:
    # Without it transformers asks for another package that does not help.
    if (folder / "spiece.model").is_file():
        import sentencepiece  # noqa: F401


def tokenize(
    tokenizer: Any, captions: Sequence[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Captions -> ids int32 and mask bool, both (B, length).

    Longer captions are cut, shorter ones padded; each keeps its end token.
    """
    encoded = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=length,
        return_attention_mask=True,
        return_tensors="np",
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    return ids.astype(np.int32), mask.astype(bool)
