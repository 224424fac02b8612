"""Small T5 and CLIP text encoders of transformers, with random weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LIMIT = 1e-4  # of the largest value of the reference
END = 49  # the id of CLIP's end token

T5_SHAPE = {
    "vocab_size": 60,
    "d_model": 24,
    "d_kv": 8,  # 4 heads of 8 are not 24
    "num_heads": 4,
    "d_ff": 40,
    "num_layers": 2,
}
CLIP_SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 48,
    "eos_token_id": END,
    "projection_dim": 12,
}


def randomize(model):
    """Every weight random, norms too; products keep their input's scale.

    Embeddings are small, so that the first norm shows its epsilon.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed" in name or "shared" in name:
                noise *= 0.01
            elif parameter.ndim == 2:
                noise /= parameter.shape[1] ** 0.5
            else:
                noise = 0.3 * noise + ("bias" not in name)
            parameter.copy_(noise)
    return model.eval()


def arrays_of(model):
    return {k: v.detach().numpy() for k, v in model.state_dict().items()}


def close(ours, theirs):
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= LIMIT, error


def masked_ids(lengths, length, vocabulary):
    """Random ids of these lengths, padded with 0; and their mask."""
    rng = np.random.default_rng(0)
    mask = np.arange(length) < np.asarray(lengths)[:, None]
    ids = rng.integers(1, vocabulary, mask.shape)
    return np.where(mask, ids, 0), mask


def assert_same_arrays(written, expected):
    """Bit for bit, and the promised shapes are kept."""
    tensors = dict(written)
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        assert tensor.shape == expected[key].shape, key
        array = tensor.read()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


def t5_model(feed_forward):
    config = transformers.T5Config(**T5_SHAPE, feed_forward_proj=feed_forward)
    return randomize(transformers.T5EncoderModel(config))


def clip_text(projection=True, **changes):
    kind = "CLIPTextModelWithProjection" if projection else "CLIPTextModel"
    config = transformers.CLIPTextConfig(**{**CLIP_SHAPE, **changes})
    return randomize(getattr(transformers, kind)(config))
