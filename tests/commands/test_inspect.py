"""`i2i-prior inspect` of a source, and of a batch of a config."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.decode_image import decode
from i2i_prior.data.pipeline import Pipeline
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from i2i_prior.inspection import batch as batches
from i2i_prior.inspection.describe import as_text, write_page
from i2i_prior.inspection.survey import (
    ImageHeader,
    image_header,
    measure,
    survey,
)
from i2i_prior.report.image_grid import grid
from i2i_prior.training.setup import data_options

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Eight images of five kinds, three of them unusable."""
    path = tmp_path / "data"
    path.mkdir()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    sound = encoded(noise, "JPEG")
    for name, content in {
        "plain.JPG": sound,
        "turned.jpg": encoded(noise, "JPEG", exif=turned),
        "grey.png": encoded(noise.convert("L"), "PNG"),
        "palette.png": encoded(noise.convert("P"), "PNG"),
        "wide.webp": encoded(noise.resize((300, 50)), "WEBP"),
        "cut.jpg": sound[:1000],
        "<i>cut.jpg": sound[:900],
        "empty.png": b"",
    }.items():
        (path / name).write_bytes(content)
    return path


def test_a_survey_counts_everything(folder):
    source = open_source(f"folder:{folder}")
    found = survey(source, "folder:x")
    assert found.whole
    assert found.kinds() == {
        "JPEG RGB": 4,
        "PNG L": 1,
        "PNG P": 1,
        "WEBP RGB": 1,
        "unknown": 1,
    }
    assert found.extensions() == {".jpg": 4, ".png": 3, ".webp": 1}
    broken = {
        reason: [seen.name for seen in group]
        for reason, group in found.broken().items()
    }
    assert broken == {
        "cannot be decoded": ["<i>cut.jpg", "cut.jpg"],
        "is empty": ["empty.png"],
    }
    sizes = {seen.name: seen.header for seen in found.sample}
    assert sizes["turned.jpg"] == ImageHeader("JPEG RGB", 40, 60)  # upright
    assert sizes["cut.jpg"] == ImageHeader("JPEG RGB", 60, 40)
    assert len(found.sizes()) == 7
    stored = sum(path.stat().st_size for path in folder.iterdir())
    assert sum(seen.bytes for seen in found.sample) == stored
    text = as_text(found, [])
    assert "3 (37.50%)" in text
    assert "record 0: <i>cut.jpg (image file is truncated" in text
    # 40, 40, 40, 40, 40, 40 and 50 pixels: one bar.
    assert "Shorter side in pixels\n          < 64         7 ####" in text
    assert "  1.25 to 1.5         0 \n" in text
    assert "     1.5 to 2         5 ####" in text
    assert "         >= 3         1 ####" in text


class Growing:
    """Record i is an image of (i + 1) x 10 pixels; number 3 is gone."""

    def __len__(self) -> int:
        return 5000

    def __getitem__(self, index: int) -> Record:
        if index == 3:
            raise FileNotFoundError(2, "No such file or directory")
        pixels = np.zeros((index + 1, 10, 3), np.uint8)
        return Record(f"{index}", pixels, {"captions": ("a", "b")})

    def fingerprint(self) -> str:
        return "0" * 16


def test_a_sample_is_random_and_says_so(tmp_path):
    done: list[int] = []
    found = survey(Growing(), "a:b", 60, advance=done.append)
    assert done == list(range(1, 61))
    numbers = [seen.record for seen in found.sample]
    assert numbers == sorted(set(numbers))
    assert numbers[0] < 500
    assert numbers[-1] > 4500
    again = survey(Growing(), "a:b", 60)
    assert again == found
    other = survey(Growing(), "a:b", 60, seed=1)
    assert [seen.record for seen in other.sample] != numbers
    text = as_text(found, [])
    assert "60, a random sample (seed 0)" in text
    assert "captions 60" in text
    assert "2.0 a captioned record" in text
    page = write_page(found, [], Growing(), tmp_path).read_text()
    assert "A random sample of 60 of 5,000 records (seed 0)" in page
    with pytest.raises(UserError, match="shows nothing"):
        survey(Growing(), "a:b", 0)


def test_records_that_vanish_are_counted_and_timed_around():
    found = survey(Growing(), "a:b", 5000)
    (reason,) = found.broken()
    assert reason == "cannot be read"
    speeds = measure(Growing(), [2, 3, 4])
    assert [speed.images for speed in speeds] == [2, 2, 2]
    assert all(speed.bytes == (3 + 5) * 30 for speed in speeds)
    assert all("images/s" in str(speed) for speed in speeds)
    assert measure(Growing(), [3]) == []


def test_what_is_cut_in_a_source_is_shown(tmp_path):
    class Cut(Growing):
        notes = ("Archive <b>.tar is cut or damaged.",)

    found = survey(Cut(), "a:b", 5)
    assert f"{Cut.notes[0]}\n" in as_text(found, [])
    page = write_page(found, [], Cut(), tmp_path).read_text()
    assert "Archive &lt;b&gt;.tar is cut or damaged." in page


def test_a_glance_has_the_size_that_is_decoded():
    noise = Image.effect_noise((9, 6), 50)
    turned = Image.Exif()
    turned[0x0112] = 6
    # Some programs note the orientation as XMP, and in no EXIF.
    xmp = b'<x xmlns:tiff="t" tiff:Orientation="6"/>'
    for kind, options in (
        ("JPEG", {"exif": turned}),
        ("JPEG", {"xmp": xmp}),
        ("PNG", {"exif": turned}),
        ("WEBP", {"exif": turned}),
    ):
        record = Record("x", encoded(noise, kind, **options))
        seen = image_header(record)
        assert (seen.height, seen.width) == decode(record).shape[:2] == (9, 6)


def test_names_that_are_no_text_are_shown_all_the_same(tmp_path):
    class Odd(Growing):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Record:
            return Record("\udcff.png", b"" if index else sound)

    sound = encoded(Image.new("RGB", (9, 9)), "PNG")
    found = survey(Odd(), "a:b")
    assert "record 1: ?.png" in as_text(found, [])
    assert (
        "record 1: ?.png" in write_page(found, [], Odd(), tmp_path).read_text()
    )


def test_a_glance_at_hostile_bytes_raises_nothing(folder):
    rng = np.random.default_rng(0)
    for path in folder.iterdir():
        sound = path.read_bytes()
        for _ in range(40 if sound else 1):
            damaged = bytearray(sound[: int(rng.integers(len(sound) + 1))])
            for place in rng.integers(0, len(damaged), 9) if damaged else ():
                damaged[place] = rng.integers(256)
            assert isinstance(
                image_header(Record("x", bytes(damaged))), ImageHeader
            )
    assert image_header(Record("x", b"%!PS-Adobe")) == ImageHeader()
    assert image_header(
        Record("x", np.zeros((3, 4, 3), np.uint8))
    ) == ImageHeader("pixels", 4, 3)


def test_the_command_writes_a_page_that_stands_alone(command, folder, tmp_path):
    ended = command("inspect", f"folder:{folder}", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "records            8" in ended.out
    assert "decode, 1 thread" in ended.out
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert page.count("<img") == 5  # the sound ones
    assert page.count("<svg") == 3
    assert "&lt;i&gt;cut.jpg" in page
    assert "<i>" not in page
    for foreign in ("http", "<script", 'src="/', "<link"):
        assert foreign not in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give one of both"),
        (("builtin:photos", "--config", "x.py"), "give one of both"),
        (("builtin:photos", "--sample", "0"), "shows nothing"),
        (("nothing:here",), "is not understood"),
        (("--config", "absent.py", "--out", "x"), "no config file"),
        (("--config", "absent.py"), "--out DIR"),
        (("builtin:photos", "--out", __file__), "is a file, and inspect.html"),
        (("--config", "absent.py", "--out", __file__), "is a file, and batch"),
    ],
)
def test_mistakes_are_told_in_a_sentence(command, arguments, says):
    ended = command("inspect", *arguments)
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_steps_before_the_first_are_refused(tiny):
    with pytest.raises(UserError, match="before the first"):
        batches.take(tiny(), -1)


def test_the_batch_is_the_one_that_training_is_given(
    command, tiny, tiny_spec, tmp_path
):
    out = tmp_path / "out"
    ended = command(
        *("inspect", "--config", tiny_spec, "--step", 2, "--out", out),
        "--config.data.view_flip=1.0",
    )
    assert ended.code == 0, ended.err
    assert "step 2: 8 of 8 examples, 0 substituted" in ended.out
    shown = batches.take(tiny("data.view_flip=1.0"), 2)
    config = tiny("data.view_flip=1.0")
    source = open_source(config.data.source)
    given = Pipeline(source, data_options(config)).batch(2)
    assert all((given[name] == shown.batch[name]).all() for name in given)
    sheet = np.asarray(Image.open(out / "batch.png"))
    for name in ("image", "view"):
        for image in shown.batch[name]:
            large = image.repeat(20, axis=0).repeat(20, axis=1)
            assert any(
                np.array_equal(sheet[y : y + 160, x : x + 160], large)
                for y in range(12, len(sheet) - 160, 12 + 160 + 34)
                for x in _lefts(sheet.shape[1])
            ), name
    page = (out / "inspect.html").read_text()
    assert "The first 8 of 8 examples of step 2" in page
    assert page.count("<img") == 1


def test_the_text_has_height_and_width_of_a_bucket(tiny, tmp_path):
    for number in range(8):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{number}.png")
    config = tiny(
        f"data.source=folder:{tmp_path}",
        "data.aspect_buckets=true",
        "data.image_size=16",
        "model.size_conditions=true",
    )
    shown = batches.take(config, 0)
    assert shown.batch["image"].shape == (8, 13, 19, 3)
    assert "target  height 13, width 19, uint8" in batches.as_text(shown)


def _lefts(width: int) -> list[int]:
    """Left edges of images of 160 pixels on a sheet of pairs."""
    firsts = range(12, width - 160, 12 + 2 * 160 + 4)
    return [left + shift for left in firsts for shift in (0, 164)]


def test_the_statistics_are_those_of_the_levels():
    image = np.zeros((2, 4, 4, 3), np.uint8)
    image[..., 0] = 255
    image[0, ..., 1] = 51
    image[1, ..., 1] = 204
    rows = {row[1]: row[2:] for row in batches.statistics({"image": image})}
    assert rows["red"] == pytest.approx((1, 0, 1))
    assert rows["green"] == pytest.approx((0, 0.6, 0), abs=1e-6)
    assert rows["blue"] == pytest.approx((-1, 0, 1))


def test_a_substitute_says_for_which_record_it_stands(
    folder, tiny, monkeypatch
):
    config = tiny(f"data.source=folder:{folder}")
    shown = batches.take(config, 0)
    assert (shown.batch["broken"] >= 0).any()
    drawn: list[str] = []
    monkeypatch.setattr(
        batches,
        "_captioned",
        lambda images, lines: drawn.append(lines[0]) or grid(images[:1]),
    )
    batches.contact_sheet(shown)
    for line, index, broken in zip(
        drawn, shown.batch["index"], shown.batch["broken"], strict=True
    ):
        instead = f" instead of {broken}" if broken >= 0 else ""
        assert line == f"record {index}{instead}"


@pytest.mark.parametrize(
    ("archive", "records", "field"),
    [
        ("flickr8k/captions1000.tar", 1000, "captions"),
        ("eth80/views.tar", 3280, "json"),
        ("facades/val.tar", 100, "images"),
        ("tiny_imagenet64/val.tar", 10000, "label"),
    ],
)
def test_what_lies_beside_real_images_is_counted(archive, records, field):
    path = SHARED / archive
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    found = survey(open_source(f"tar:{path}"), "x", 50)
    assert found.records == records
    assert found.fields() == {field: 50}
    assert not found.broken()
