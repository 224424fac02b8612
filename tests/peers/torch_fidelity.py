"""torch-fidelity's metrics on given features, without torchvision.

Importing the package runs its extractors; only the files of the metrics are
wanted here. So the package is put up empty while one of them is loaded, with
the names of its `utils` that only the whole tool needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import pytest

_UNUSED = (
    "cache_lookup_one_recompute_on_miss",
    "create_feature_extractor",
    "extract_featuresdict_from_input_id_cached",
    "get_cacheable_input_name",
    "resolve_feature_extractor",
    "resolve_feature_layer_for_metric",
)


def load_metric(name: str) -> types.ModuleType:
    """The module `torch_fidelity.metric_NAME`; skips without it."""
    pytest.importorskip("torch")
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    utils = types.ModuleType("torch_fidelity.utils")
    for unused in _UNUSED:
        setattr(utils, unused, None)
    before = _taken_out()
    sys.modules["torch_fidelity"] = package
    sys.modules["torch_fidelity.utils"] = utils
    try:
        return importlib.import_module(f"torch_fidelity.metric_{name}")
    finally:
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, types.ModuleType]:
    names = [
        name for name in sys.modules if name.split(".")[0] == "torch_fidelity"
    ]
    return {name: sys.modules.pop(name) for name in names}
