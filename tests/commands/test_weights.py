"""`i2i-prior weights` from a file, from a server, and without network."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest

from i2i_prior.cli import main
from i2i_prior.evaluation.features.inception_layout import published_shapes
from i2i_prior.evaluation.features.inception_weights import (
    load_inception,
    stored_file,
)

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small file of weights and one without any."""
    path = tmp_path_factory.mktemp("served")
    state = {
        key: torch.full((1,) * len(shape), 0.5).expand(shape)
        for key, shape in published_shapes().items()
    }
    torch.save(state, path / "w.pth")
    (path / "broken.pth").write_bytes((path / "w.pth").read_bytes()[:-900])
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that sends `short.pth` in part only."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path != "/short.pth":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        return self.wfile.write(b"x" * 10)


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["weights", "inception", *map(str, arguments)])
    return ended.value.code


def test_a_file_goes_to_the_users_cache(folder, cache, capsys):
    assert run("--from", folder / "w.pth") == 0
    out = capsys.readouterr().out
    assert str(stored_file()) in out
    assert "NOT the published weights" in out
    extractor = load_inception()
    assert extractor.label in out
    assert extractor.label.startswith("FD-inception:")


def test_a_url(server, tmp_path, capsys):
    out = tmp_path / "own.safetensors"
    assert run("--from", f"{server}/w.pth", "--out", out) == 0
    assert load_inception(out).taps == {"pool3": 2048}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken.pth", "not a readable torch file"),
        ("none.pth", "404"),
        ("short.pth", "ended after 10 of 1000 bytes"),
    ],
)
def test_what_a_server_may_give(name, words, server, cache, capsys):
    assert run("--from", f"{server}/{name}") == 1
    error = capsys.readouterr().err
    assert words in error
    assert f"{server}/{name}" in error
    assert not any(cache.rglob("*"))


def test_no_network(cache, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert run("--from", "http://127.0.0.1:1/w.pth") == 1
    error = capsys.readouterr().err
    assert "where there is no network" in error
    assert "--from FILE" in error


def test_no_such_file(cache, capsys):
    assert run("--from", cache / "none.pth") == 1
    assert "none.pth" in capsys.readouterr().err
