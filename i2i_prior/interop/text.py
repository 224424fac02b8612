"""Import, use and export of published text encoders."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import LazyTensor
from i2i_prior.interop.files.state_dicts import StateDict, read_state_dict
from i2i_prior.interop.layouts import conversion, mapping, text
from i2i_prior.interop.layouts.text import SHARED, TIED, TextConfig, detect
from i2i_prior.models.functional import Flat, Functional, make_functional
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.text import TextFeatures
from i2i_prior.models.text_clip import ClipTextEncoder
from i2i_prior.models.text_t5 import T5Config, T5Encoder

__all__ = ["TextEncoder", "detect", "export", "load_text_encoder"]

# Tokens of a caption in Lumos and PixArt-alpha.
T5_LENGTH = 120
# Any one of these files makes a folder a tokenizer's.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json"),
    *("spiece.model", "vocab.json"),
)


def functional_of(config: TextConfig) -> Functional:
    """Returns the encoder of a config as functions of named arrays."""
    network: Any = ClipTextEncoder
    if isinstance(config, T5Config):
        network = T5Encoder
    return make_functional(lambda rngs: network(config, rngs=rngs))[0]


class TextEncoder:
    """Text encoder with its weights and, if there is one, its tokenizer.

    Attributes: config; parameters by name; tokenizer, the folder of the
    tokenizer's files, or None.
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

        The ids are int (B, L), below the size of the vocabulary; the mask is
        bool (B, L), true where a token counts; all do if None. Returns tokens
        float32 (B, L, D), and pooled float32 (B, P) from CLIP. UserError where
        an id is not in the vocabulary, or the text is longer than CLIP's
        positions.
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
        """Converts captions to ids int32 and mask bool, both (B, length).

        Longer captions are cut, shorter ones padded; each keeps its end token.

        Raises UserError without a tokenizer, or the packages that read it.
        """
        encoded = self._tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_attention_mask=True,
            return_tensors="np",
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        return ids.astype(np.int32), mask.astype(bool)

    def encode(
        self, captions: Sequence[str], length: int | None = None
    ) -> tuple[jax.Array, np.ndarray]:
        """Encodes captions.

        Padding is masked for T5. It is not for CLIP, as in Stable Diffusion:
        its attention is causal. `length` is in tokens; if None, 120 for T5 and
        all positions for CLIP. Returns tokens float32 (B, length, D), and mask
        bool (B, length).
        """
        if isinstance(self.config, T5Config):
            ids, mask = self.tokenize(captions, length or T5_LENGTH)
            return self(ids, mask).tokens, mask
        ids, mask = self.tokenize(captions, length or self.config.length)
        return self(ids).tokens, mask

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return _read_tokenizer(self.tokenizer)


def load_text_encoder(
    state_or_path: StateDict | str | Path,
    *,
    heads: int | None = None,
    activation: str | None = None,
    precision: str = "float32",
    tokenizer: str | Path | None = None,
) -> TextEncoder:
    """Opens a T5 or CLIP text encoder of a Hugging Face or OpenAI file.

    The path is that of a weight file, or of a folder with it, its config.json
    and possibly its tokenizer. For `heads` and `activation` see
    `layouts.text.config_of`. (OpenCLIP's own models need the activation
    "gelu".) `precision` is a name of `models.precision.PRECISIONS`; kernels are
    stored in the dtype of their product: in bfloat16 T5-XXL takes 10 GB, not
    19. `tokenizer` is the folder with the tokenizer's files; if None that of
    the weights, or the tokenizer's in a diffusers pipeline.

    UserError where the file is not readable or holds no text encoder of a known
    layout; a weight is missing, misshapen or not finite; or two tied embeddings
    differ.
    """
    state = state_or_path
    if isinstance(state, str | Path):
        state = read_state_dict(state)
    layout = detect(state.shapes)
    if layout is None:
        raise UserError(
            f"{state.path} holds no text encoder of a known layout (T5 or "
            "CLIP, as Hugging Face or OpenAI save them)"
        )
    with mapping.implied_shapes(state.path, "a text encoder"):
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
        tokenizer = _find_tokenizer(Path(state.path))
    return TextEncoder(config, parameters, tokenizer)


def _parameters(state: StateDict, layout: str, config: TextConfig) -> Flat:
    shapes = state.shapes
    both = SHARED in shapes and TIED in shapes
    if both and not np.array_equal(state[SHARED], state[TIED]):
        raise UserError(
            f"{state.path} holds two different embeddings ({SHARED}, {TIED}) "
            "where T5 has one; nothing was loaded"
        )
    operands = PRECISIONS[config.precision].operands

    def cast(name: str, array: np.ndarray) -> jax.Array:
        kernel = name.endswith("/kernel")
        return jnp.asarray(array, operands if kernel else jnp.float32)

    structs = functional_of(config).shapes()
    return conversion.read(
        state,
        text.rules_of(
            layout,
            config,
            structs,
            embedding=TIED if TIED in shapes and not both else SHARED,
            prefix=text.prefix_of(shapes),
        ),
        structs,
        layout=layout,
        ignore=text.IGNORED[layout],
        cast=cast,  # one at a time, since T5-XXL is large
    )


def _find_tokenizer(weights: Path) -> Path | None:
    """Returns the folder of the tokenizer of some weights, None if missing.

    It is that of the weights or, in a diffusers pipeline, the neighbouring
    one: tokenizer_2/ is that of text_encoder_2/.
    """
    if not weights.exists():
        return None
    folder = weights.resolve()
    if weights.is_file():
        folder = folder.parent
    neighbour = folder.name.replace("text_encoder", "tokenizer")
    for candidate in (folder, folder.parent / neighbour):
        if any((candidate / name).is_file() for name in _TOKENIZER_FILES):
            return candidate
    return None


def _read_tokenizer(folder: Path | None) -> Any:
    """Opens a tokenizer of transformers, without downloads and remote code.

    Raises UserError if there is no folder, transformers cannot read it, or
    transformers (for T5: or sentencepiece) is not installed.
    """
    if folder is None:
        raise UserError(
            "this text encoder has no tokenizer; give "
            "load_text_encoder(tokenizer=) the folder with its files"
        )
    try:
        from transformers import AutoTokenizer

        files = {file.name for file in folder.iterdir()}
        if "spiece.model" in files and "tokenizer.json" not in files:
            # Without it transformers asks for a package that does not help.
            import sentencepiece  # noqa: F401
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


def export(
    parameters: Mapping[str, Any],
    config: TextConfig,
    layout: str,
    *,
    tied: bool = False,
) -> Iterator[tuple[str, LazyTensor]]:
    """Yields (key, tensor) of an encoder in a published layout.

    T5's decoder, CLIP's image half, logit_scale and buffers are not written.
    The parameters are arrays by name; from a bfloat16 encoder, rounded kernels.
    The layout is of `detect`; CLIP's two hold the same weights. `tied` repeats
    T5's embedding as encoder.embed_tokens.weight, as in torch's own files but
    not in safetensors. UserError where the layout is not one of this kind of
    encoder.
    """
    fitting = ["clip_text", "clip_text_openai"]
    if isinstance(config, T5Config):
        fitting = ["t5"]
    if layout not in fitting:
        raise UserError(
            f"this text encoder cannot be written as {layout!r}; choose "
            f"{' or '.join(fitting)}"
        )
    rules = text.rules_of(layout, config, parameters)
    if tied and layout == "t5":
        rules += mapping.rules_of({"embedding": TIED}, parameters)
    return conversion.save(parameters, rules)
