"""The grammar of a SPEC, and mixtures of sources."""

from __future__ import annotations

import pickle

import pytest

from i2i_prior.data.sources.mixture import Mixture
from i2i_prior.data.sources.registry import open_source
from i2i_prior.data.sources.spec import parse, parse_mix
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, value_of, write_folder, write_tar

SCHEMES = {"tar": ("image",), "folder": (), "parquet": ("image", "caption")}


@pytest.mark.parametrize(
    ("text", "place", "options"),
    [
        ("tar:/a.tar", "/a.tar", {}),
        ("tar:/a.tar#image=x.jpg", "/a.tar", {"image": "x.jpg"}),
        ("tar:/a#1/*.tar", "/a#1/*.tar", {}),
        ("tar:/a#1/*.tar#image=", "/a#1/*.tar", {"image": ""}),
        ("tar:s3://b/{x}.tar", "s3://b/{x}.tar", {}),
        ("parquet:/a#image=x,caption=y", "/a", {"image": "x", "caption": "y"}),
    ],
)
def test_a_spec_is_taken_apart(text, place, options):
    scheme = text.partition(":")[0]
    assert parse(text, SCHEMES) == (scheme, place, options)


def test_a_real_path_wins_over_options(tmp_path):
    write_tar(tmp_path / "a.tar#image=x.jpg", {"1.png": png(3)})
    source = open_source(f"tar:{tmp_path}/a.tar#image=x.jpg")
    assert value_of(source[0]) == 3


@pytest.mark.parametrize(
    "text",
    [
        "tar:/a.tar#colour=red",
        "tar:/a.tar#image=a,image=b",
        "folder:/a#image=x",
        "tar:#image=x",
    ],
)
def test_options_that_do_not_fit_are_refused(text):
    with pytest.raises(UserError, match=r"^Image source .*\.$"):
        parse(text, SCHEMES)


def test_a_mixture_is_its_parts_by_weight(tmp_path):
    write_folder(tmp_path / "a + b", {"1.png": png(1), "2.png": png(2)})
    write_tar(tmp_path / "c.tar", {"3.png": png(3)})
    spec = f"3*folder:{tmp_path}/a + b + 1e0*tar:{tmp_path}/c.tar"
    mixture = open_source(f"mix:{spec}")
    assert isinstance(mixture, Mixture)
    assert mixture.weights == (0.75, 0.25)
    assert mixture.starts == (0, 2)
    assert [value_of(record) for record in mixture] == [1, 2, 3]
    assert value_of(mixture[-1]) == 3
    again = pickle.loads(pickle.dumps(mixture))
    assert again.fingerprint() == mixture.fingerprint()
    other = open_source(f"mix:{spec}".replace("3*", "2*", 1))
    assert other.fingerprint() != mixture.fingerprint()
    same = open_source(f"mix:{spec}".replace("3*", "6*").replace("1e0", "2"))
    assert same.fingerprint() == mixture.fingerprint()


@pytest.mark.parametrize("plus", [" + ", " +  ", "   + ", " \t+\n  "])
def test_any_spaces_stand_around_a_plus(plus):
    parts = [(0.7, "tar:/a +b"), (0.3, "folder:/b + c+1")]
    text = plus.join(f"{weight}*{spec}" for weight, spec in parts)
    assert parse_mix(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "folder:/a + folder:/b",
        "0.5*folder:/a",
        "0*folder:/a + 1*folder:/b",
        "-1*folder:/a + 1*folder:/b",
        "nan*folder:/a + 1*folder:/b",
        "inf*folder:/a + 1*folder:/b",
        "x*folder:/a + 1*folder:/b",
        "1*mix:1*folder:/a + 1*folder:/b",
        "",
    ],
)
def test_mixtures_without_a_meaning_are_refused(text):
    with pytest.raises(UserError, match=r"^Mixture [^\n]*\.$"):
        parse_mix(text)
