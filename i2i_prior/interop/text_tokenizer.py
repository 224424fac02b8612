"""Tokenizers of text encoders, read by transformers from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i2i_prior.errors import UserError

# Any one of these files makes a folder a tokenizer's.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
    "vocab.json",
)


def find_tokenizer(weights: Path) -> Path | None:
    """Returns the folder of the tokenizer of some weights, None if missing.

    Args:
      weights: a weight file or its folder. The tokenizer is in the same
        folder or, in a diffusers pipeline, in the neighbouring one:
        tokenizer_2/ is that of text_encoder_2/.
    """
    if not weights.exists():
        return None
    folder = weights.resolve()
    if weights.is_file():
        folder = folder.parent
    neighbour = folder.name.replace("text_encoder", "tokenizer")
    for candidate in (folder, folder.parent / neighbour):
        if any((candidate / name).is_file() for name in FILES):
            return candidate
    return None


def read_tokenizer(folder: Path | None) -> Any:
    """Opens a tokenizer of transformers, without downloads and remote code.

    Raises:
      UserError: there is no folder, transformers cannot read it, or
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
            _require_sentencepiece(folder)
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


def _require_sentencepiece(folder: Path) -> None:
    # Without it transformers asks for another package that does not help.
    if (folder / "spiece.model").is_file():
        import sentencepiece  # noqa: F401
