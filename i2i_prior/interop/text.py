"""Text encoders out of other people's files: captions in, features out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop import text_tokenizer
from i2i_prior.interop.layouts import mapping, text
from i2i_prior.interop.layouts.text import SHARED, TIED, TextConfig, detect
from i2i_prior.models.functional import Flat, Functional, make_functional
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.text import TextFeatures
from i2i_prior.models.text_clip import ClipTextEncoder
from i2i_prior.models.text_t5 import T5Config, T5Encoder

if TYPE_CHECKING:
    from i2i_prior.interop.files.state_dicts import StateDict

__all__ = ["TextEncoder", "detect", "export", "load_text_encoder"]

# Lumos and PixArt-alpha read this many tokens of a caption.
T5_LENGTH = 120


def functional_of(config: TextConfig) -> Functional:
    """The encoder of a configuration, without its weights."""
    if isinstance(config, T5Config):
        return make_functional(lambda rngs: T5Encoder(config, rngs=rngs))[0]
    return make_functional(lambda rngs: ClipTextEncoder(config, rngs=rngs))[0]


class TextEncoder:
    """A text encoder with its weights, and its tokenizer where there is one.

    Attributes:
      config: `T5Config` or `ClipTextConfig`.
      parameters: name -> array.
      tokenizer: folder of the tokenizer's files, or None.
    """

    def __init__(
        self,
        config: TextConfig,
        parameters: Flat,
        tokenizer: str | Path | None = None,
    ):
        functional = functional_of(config)
        self.config = config
        self.parameters = parameters
        self.tokenizer = None if tokenizer is None else Path(tokenizer)
        self._forward = jax.jit(
            lambda parameters, ids, mask: functional.merge(parameters)(
                ids, mask
            )
        )

    def __call__(self, ids: Any, mask: Any | None = None) -> TextFeatures:
        """Encodes tokens.

        Args:
          ids: int (B, L), below the size of the vocabulary.
          mask: bool (B, L), true where a token counts; None counts all.

        Returns:
          tokens float32 (B, L, D), and pooled float32 (B, P) from CLIP.

        Raises:
          UserError: where an id is not in the vocabulary, or the text is
            longer than CLIP's positions.
        """
        ids = np.asarray(ids, np.int32)
        if ids.min() < 0 or ids.max() >= self.config.vocabulary:
            raise UserError(
                f"token ids {ids.min()}..{ids.max()} are not all among the "
                f"{self.config.vocabulary} of this text encoder; give it the "
                "tokenizer it was trained with"
            )
        if mask is not None:
            mask = jnp.asarray(mask, bool)
        return self._forward(self.parameters, jnp.asarray(ids), mask)

    def tokenize(
        self, captions: Sequence[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Captions -> ids int32 and mask bool, both (B, length).

        Longer captions are cut, shorter ones padded; each keeps its end
        token.

        Raises:
          UserError: where there is no readable tokenizer, or transformers
            (for T5: or sentencepiece) is not installed.
        """
        return text_tokenizer.tokenize(self._tokenizer, captions, length)

    def encode(
        self, captions: Sequence[str], length: int | None = None
    ) -> tuple[jax.Array, np.ndarray]:
        """Captions -> tokens float32 (B, length, D), mask bool (B, length).

        T5 does not look at padding. CLIP is not told of it, as in Stable
        Diffusion: its tokens never see what follows.

        Args:
          captions: B texts.
          length: 120 for T5 and all positions for CLIP, where None.

        Raises:
          UserError: as `tokenize` and a call.
        """
        if isinstance(self.config, T5Config):
            ids, mask = self.tokenize(captions, length or T5_LENGTH)
            return self(ids, mask).tokens, mask
        ids, mask = self.tokenize(captions, length or self.config.length)
        return self(ids).tokens, mask

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return text_tokenizer.read_tokenizer(self.tokenizer)


def load_text_encoder(
    state_or_path: StateDict | str | Path,
    *,
    heads: int | None = None,
    activation: str | None = None,
    precision: str = "float32",
    tokenizer: str | Path | None = None,
) -> TextEncoder:
    """A T5 or CLIP text encoder out of a Hugging Face or OpenAI file.

    Args:
      state_or_path: an opened `StateDict`, or what `read_state_dict` takes:
        a weight file, or a folder with it, its config.json and maybe its
        tokenizer.
      heads: attention heads; else of config.json, else T5's of its bias
        table and CLIP's of 64 channels each.
      activation: a name of `text.ACTIVATIONS`; else of config.json, else as
        Google and OpenAI had it. (OpenCLIP's own models need "gelu".)
      precision: a name of `matmul.PRECISIONS`. Kernels are kept in what they
        are multiplied in: in bfloat16 T5-XXL takes 10 GB, not 19.
      tokenizer: folder with the tokenizer's files; else the folder of the
        weights, or, of a diffusers pipeline, the one beside it.

    Raises:
      UserError: where the file is not readable or holds no text encoder of
        a known layout, a weight is missing, misshapen or not finite, or two
        tied embeddings differ.
    """
    if isinstance(state_or_path, str | Path):
        from i2i_prior.interop.files.state_dicts import read_state_dict

        state = read_state_dict(state_or_path)
    else:
        state = state_or_path
    layout = detect(state.shapes)
    if layout is None:
        raise UserError(
            f"{state.path} holds no text encoder of a known layout (T5 or "
            "CLIP, as Hugging Face or OpenAI save them)"
        )
    config = text.config_of(
        layout,
        state.shapes,
        state.config or {},
        path=state.path,
        heads=heads,
        activation=activation,
        precision=precision,
    )
    parameters = _parameters(state, layout, config)
    if tokenizer is None:
        tokenizer = text_tokenizer.find_tokenizer(Path(state.path))
    return TextEncoder(config, parameters, tokenizer)


def _parameters(state: StateDict, layout: str, config: TextConfig) -> Flat:
    shapes = state.shapes
    our_shapes = {
        name: array.shape
        for name, array in functional_of(config).shapes().items()
    }
    rules = text.rules_of(
        layout,
        config,
        embedding=TIED if SHARED not in shapes and TIED in shapes else SHARED,
        prefix=text.prefix_of(shapes),
    )
    mapping.check(
        shapes,
        rules,
        our_shapes,
        path=state.path,
        layout=layout,
        ignore=text.IGNORED[layout],
    )
    if SHARED in shapes and TIED in shapes:
        _check_tied(state)
    operands = PRECISIONS[config.precision].operands
    parameters: Flat = {}
    for rule in rules:  # one at a time: T5-XXL is large
        loaded = mapping.load(state, [rule], our_shapes, path=state.path)
        for name, array in loaded.items():
            kernel = name.endswith("/kernel")
            parameters[name] = jnp.asarray(
                array, operands if kernel else jnp.float32
            )
    return parameters


def _check_tied(state: StateDict) -> None:
    if not np.array_equal(state[SHARED], state[TIED]):
        raise UserError(
            f"{state.path} holds two different embeddings ({SHARED}, {TIED}) "
            "where T5 has one; nothing was loaded"
        )


def export(
    parameters: Mapping[str, Any],
    config: TextConfig,
    layout: str,
    *,
    tied: bool = False,
) -> Iterator[tuple[str, mapping.Tensor]]:
    """An encoder's weights under the names of a layout.

    What is not stored: T5's decoder, CLIP's image half, logit_scale, and
    buffers (position_ids, attn_mask).

    Args:
      parameters: name -> array; from a bfloat16 encoder, rounded kernels.
      config: of the encoder.
      layout: of `detect`; CLIP's two hold the same weights.
      tied: T5's embedding a second time, as encoder.embed_tokens.weight: as
        torch's own files have it, those of safetensors do not.

    Returns:
      (key, tensor) pairs for `files.write_state_dict`.

    Raises:
      UserError: where the layout is not one of this kind of encoder.
    """
    fitting = (
        ("t5",)
        if isinstance(config, T5Config)
        else ("clip_text", "clip_text_openai")
    )
    if layout not in fitting:
        raise UserError(
            f"this text encoder cannot be written as {layout!r}; choose "
            f"{' or '.join(fitting)}"
        )
    rules = text.rules_of(layout, config)
    if tied and layout == "t5":
        rules.append(mapping.same("embedding", TIED))
    return mapping.save(parameters, rules)
