"""What the demo's page opens of an upload; gradio is played."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT


@pytest.fixture
def demo(monkeypatch):
    class PageError(Exception):
        """As gradio.Error, of which the page shows the text."""

    played = SimpleNamespace(Error=PageError, Blocks=object)
    monkeypatch.setitem(sys.modules, "gradio", played)
    file = ROOT / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_upload_is_decoded(demo, tmp_path):
    Image.new("L", (5, 4), 77).save(tmp_path / "grey.png")
    pixels = demo.opened(str(tmp_path / "grey.png"))
    assert pixels.shape == (4, 5, 3)
    assert (np.asarray(pixels) == 77).all()


def test_a_large_one_is_refused_by_its_header(demo, tmp_path, monkeypatch):
    Image.new("RGB", (8000, 6000)).save(tmp_path / "large.png")
    monkeypatch.setattr(demo, "open_image", None)
    with pytest.raises(demo.gr.Error, match="48 megapixels; choose one of 40"):
        demo.opened(str(tmp_path / "large.png"))


def test_what_is_no_image_is_said(demo, tmp_path):
    (tmp_path / "no.png").write_bytes(b"hello")
    with pytest.raises(demo.gr.Error, match="no image that can be read"):
        demo.opened(str(tmp_path / "no.png"))
    with pytest.raises(demo.gr.Error, match="Choose an image first"):
        demo.opened(None)
