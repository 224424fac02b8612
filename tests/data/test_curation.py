"""Curation: filters, near duplicates, selections and reports."""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.curation import duplicates, embeddings
from i2i_prior.data.curation.duplicates import (
    mean_colours,
    near_by_hash,
    perceptual_hash,
)
from i2i_prior.data.curation.embeddings import near_by_embedding
from i2i_prior.data.curation.filters import (
    CurateOptions,
    FilterInput,
    load_plugin,
)
from i2i_prior.data.curation.passes import curate
from i2i_prior.data.curation.report import write_curation_report
from i2i_prior.data.decode_image import Picture, decode
from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import open_source
from i2i_prior.data.sources.selected import (
    Selected,
    open_selection,
    read_dropped,
    read_selection,
    write_selection,
)
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import write_tar

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def brute(near: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Result of best-first selection from the whole matrix of distances."""
    instead = np.full(len(rank), -1)
    kept: list[int] = []
    for place in np.argsort(rank):
        found = [other for other in kept if near[place, other]]
        if found:
            instead[place] = found[0]
        else:
            kept.append(place)
    return instead


def scattered_hashes(rng: np.random.Generator, n: int) -> np.ndarray:
    """60 places, each with n hashes 0 to 8 bits away from it."""
    hashes = np.repeat(rng.integers(0, 2**64, 60, dtype=np.uint64), n)
    for place in range(len(hashes)):
        for bit in rng.choice(64, rng.integers(9), replace=False):
            hashes[place] ^= np.uint64(1 << int(bit))
    return hashes


def near_bits(
    hashes: np.ndarray, rank: np.ndarray, threshold: int
) -> np.ndarray:
    """`near_by_hash` where all colours are the same."""
    colours = np.zeros((len(hashes), 48), np.uint8)
    return near_by_hash(hashes, colours, rank, threshold)


@pytest.mark.parametrize("threshold", [0, 1, 4, 6, 10, 16])
def test_near_hashes_are_those_of_all_pairs(threshold):
    rng = np.random.default_rng(threshold)
    hashes = scattered_hashes(rng, 5)
    rank = rng.permutation(len(hashes))
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = brute(distances <= threshold, rank)
    assert (near_bits(hashes, rank, threshold) == expected).all()
    assert 0 < (expected >= 0).sum() < len(hashes)


def test_large_sets_are_not_compared_pair_by_pair():
    rng = np.random.default_rng(0)
    n = 300_000
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    hashes[:1000] = hashes[1000:2000] ^ np.uint64(0x8000_0400_0010_0001)
    hashes[-50_000:] = hashes[-1]  # copies without end
    start = time.monotonic()
    instead = near_bits(hashes, np.arange(n)[::-1], 4)
    assert time.monotonic() - start < 20  # 45 billion pairs would take more
    assert (instead[:1000] == np.arange(1000, 2000)).all()
    assert (instead[-50_000:-1] == n - 1).all()
    assert (instead >= 0).sum() == 1000 + 49_999


def test_of_a_chain_only_the_middle_goes():
    hashes = np.array([0b0000, 0b0011, 0b1111], np.uint64)
    assert near_bits(hashes, np.arange(3), 2).tolist() == [-1, 0, -1]


def test_of_near_hashes_only_those_of_like_colours_are_copies():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (6, 48)).astype(np.uint8)
    # Brighter, otherwise alike; then by itself; then exactly equal and plain.
    colours[1] = np.clip(colours[0] * 1.1 + 9, 0, 255).astype(np.uint8)
    colours[4:] = 7
    hashes = np.array([1, 1, 1, 3, 6, 6], np.uint64)
    near = near_by_hash(hashes, colours, np.arange(6), 3)
    assert near.tolist() == [-1, 0, -1, -1, -1, 4]
    colours[3] = colours[2]
    near = near_by_hash(hashes, colours, np.arange(6)[::-1], 3)
    assert near.tolist() == [1, -1, 3, -1, 5, -1]


def test_copies_of_one_hash_follow_the_best_of_them():
    hashes = np.array([5, 5, 4, 5], np.uint64)
    rank = np.array([2, 1, 0, 3])
    assert near_bits(hashes, rank, 1).tolist() == [2, 2, -1, 2]


def test_too_many_pairs_are_told(monkeypatch):
    monkeypatch.setattr(duplicates, "_MAX_PAIRS", 100)
    with pytest.raises(UserError, match="lower it"):
        near_bits(np.arange(64, dtype=np.uint64), np.arange(64), 6)


@pytest.mark.parametrize("block", [3, 16, 4096])
def test_near_embeddings_are_those_of_all_pairs(block, monkeypatch):
    monkeypatch.setattr(embeddings, "_BLOCK", block)
    rng = np.random.default_rng(block)
    rows = rng.normal(size=(20, 12)).repeat(4, 0)
    rows += rng.normal(size=rows.shape) * 0.25
    rows *= rng.uniform(1e-3, 1e3, (len(rows), 1))
    rows[[5, 50]] = 0
    rank = rng.permutation(70)
    numbers = np.arange(70) + 5
    chosen = rows[numbers]
    lengths = np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    cosines = (chosen / lengths) @ (chosen / lengths).T
    expected = brute(cosines >= 0.9, rank)
    found = near_by_embedding(rows.astype(np.float32), numbers, rank, 0.9)
    assert ((found >= 0) == (expected >= 0)).all()
    dropped = np.flatnonzero(found >= 0)
    assert (cosines[dropped, found[dropped]] >= 0.9 - 1e-5).all()
    assert (found[found[dropped]] == -1).all()
    assert 10 < len(dropped) < 60


def test_an_embedding_that_is_not_finite_is_named():
    rows = np.ones((6, 3), np.float16)
    rows[4, 1] = np.nan
    with pytest.raises(UserError, match="embedding 4 holds"):
        near_by_embedding(rows, np.arange(6), np.arange(6), 0.9)


def stored(image: Image.Image, quality: int = 90) -> Record:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality)
    return Record("x.jpg", encoded.getvalue())


def thumbnail(record: Record) -> np.ndarray:
    picture = Picture(record)
    box = 0, 0, picture.width, picture.height
    return picture.cut([(box, 64)])[0]


def hashed(records: Iterable[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, 0 for none, and mean colours."""
    small = [thumbnail(record) for record in records]
    hashes = [perceptual_hash(pixels) or 0 for pixels in small]
    colours = [mean_colours(pixels) for pixels in small]
    return np.array(hashes, np.uint64), np.array(colours)


def test_plain_images_have_no_hash():
    noise = np.random.default_rng(0).integers(100, 104, (512, 512, 3))
    checks = np.indices((256, 256)).sum(0) % 2 * 255
    for plain in (
        np.full((90, 40, 3), (200, 10, 3)),
        noise,
        checks[..., None].repeat(3, 2),
    ):
        small = thumbnail(Record("x", plain.astype(np.uint8)))
        assert perceptual_hash(small) is None


def _cropped(image: Image.Image) -> Image.Image:
    """1 % less on each side, at least a pixel."""
    width, height = image.size
    x, y = -(-width // 100), -(-height // 100)
    return image.crop((x, y, width - x, height - y))


# Change, and the least share of copies found within 6 bits. Measured, each
# archive whole: 1 and 1; 1 and 1; 0.99 and 0.95.
PLANTED = {
    "reencoded": (lambda image: stored(image, 40), 0.98),
    "resized": (lambda image: stored(image.resize((110, 90))), 0.98),
    "cropped": (lambda image: stored(_cropped(image)), 0.9),
}


@pytest.mark.parametrize(
    ("archive", "count"),
    [("flickr8k/captions1000.tar", 1000), ("tiny_imagenet64/val.tar", 2000)],
)
def test_planted_copies_are_found_and_others_are_not(archive, count):
    path = SHARED / archive
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    source = open_source(f"tar:{path}")
    records = [source[i] for i in range(count)]
    hashes, colours = hashed(records)
    for name, (change, recall) in PLANTED.items():
        images = [Image.fromarray(decode(record)) for record in records[:100]]
        copies = hashed(change(image) for image in images)
        found = [
            near_by_hash(
                np.array([hashes[i], copies[0][i]]),
                np.array([colours[i], copies[1][i]]),
                np.arange(2),
                6,
            )[1]
            for i in range(100)
        ]
        assert np.mean(found) >= recall - 1, name  # 0 where found, else -1
    assert hashes.all()
    assert (near_by_hash(hashes, colours, np.arange(count), 8) < 0).all()


@pytest.fixture
def folder(tmp_path):
    """Sixteen photographs; copies, plain, narrow, small and broken images."""
    path = tmp_path / "data"
    path.mkdir()
    rng = np.random.default_rng(3)
    for number in range(16):
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        photo = Image.fromarray(coarse).resize((80, 64), Image.BICUBIC)
        photo.save(path / f"photo{number:02}.png")
        if number < 3:
            photo.resize((60, 48)).save(path / f"a{number}.jpg")
    photo.crop((0, 0, 80, 20)).save(path / "narrow.png")
    photo.resize((20, 16)).save(path / "small.png")
    Image.new("RGB", (64, 64), "blue").save(path / "plain.png")
    (path / "empty.png").touch()
    (path / "cut.png").write_bytes((path / "photo00.png").read_bytes()[:900])
    return path


ANY = CurateOptions(max_broken=1)
ALL = CurateOptions(
    min_side=17,
    max_aspect=2,
    min_entropy=2,
    near_duplicates="phash",
    max_broken=0.1,
)


def dropped_names(source, path) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for line in read_dropped(path):
        name = source[line["record"]].name
        reasons.setdefault(line["reason"], []).append(name)
    return reasons


def test_every_record_is_kept_or_dropped_with_its_reason(folder, tmp_path):
    spec, out = f"folder:{folder}", str(tmp_path / "made" / "kept.jsonl")
    source = open_source(spec)
    seen: list[int] = []
    counts = curate(source, spec, ALL, out, seen.append)
    assert seen == list(range(1, len(source) + 1))
    assert dropped_names(source, out) == {
        "near_duplicate": ["a0.jpg", "a1.jpg", "a2.jpg"],  # the smaller ones
        "broken": ["cut.png", "empty.png"],
        "max_aspect": ["narrow.png"],
        "min_side": ["small.png"],
        "min_entropy": ["plain.png"],
    }
    assert counts == {
        "near_duplicate": 3,
        "broken": 2,
        "max_aspect": 1,
        "min_side": 1,
        "min_entropy": 1,
    }
    lines = list(read_dropped(out))
    for line in lines:
        if line["reason"] == "near_duplicate":
            small = source[line["record"]].name
            assert source[line["instead"]].name == f"photo0{small[1]}.png"
    kept = open_selection(out, open_source)
    names = [kept[i].name for i in range(len(kept))]
    assert names == [f"photo{number:02}.png" for number in range(16)]
    assert [source[kept.number(i)].name for i in range(len(kept))] == names
    first = Path(out).read_bytes()
    curate(source, spec, ALL, out)
    assert Path(out).read_bytes() == first
    assert [path.name for path in Path(out).parent.iterdir()] == ["kept.jsonl"]


def test_a_selection_feeds_the_pipeline_alike_from_any_process(
    folder, tmp_path
):
    spec, out = f"folder:{folder}", str(tmp_path / "kept.jsonl")
    curate(open_source(spec), spec, ALL, out)
    selected = open_selection(out, open_source)
    again = pickle.loads(pickle.dumps(selected))
    assert selected.fingerprint() == again.fingerprint()
    options = DataOptions.of(image_size=8, batch_size=8)
    batch = Pipeline(selected, options).batch(3)
    other = Pipeline(again, options).batch(3)
    assert all((batch[name] == other[name]).all() for name in batch)
    epoch = [Pipeline(selected, options).batch(step) for step in (0, 1)]
    indices = np.concatenate([batch["index"] for batch in epoch])
    assert sorted(indices) == list(range(16))
    assert all((batch["broken"] == -1).all() for batch in epoch)


def test_a_selection_can_be_curated_again(folder, tmp_path):
    spec = f"folder:{folder}"
    first, second = str(tmp_path / "1.jsonl"), str(tmp_path / "2.jsonl")
    options = CurateOptions(min_side=17, max_broken=0.1)
    curate(open_source(spec), spec, options, first)
    spec = f"select:{first}"
    counts = curate(
        open_source(spec), spec, CurateOptions(max_aspect=2), second
    )
    assert counts == {"max_aspect": 1}
    kept = open_source(f"select:{second}")
    names = [kept[i].name for i in range(len(kept))]
    assert len(names) == 16 + 3 + 1
    assert "small.png" not in names
    assert "narrow.png" not in names


def test_a_selection_of_itself_ends(tmp_path):
    one, other = tmp_path / "1.jsonl", tmp_path / "2.jsonl"

    def link(path: Path, source: Path) -> None:
        header = {"source": f"select:{source}", "fingerprint": "0" * 16}
        write_selection(path, header, np.ones(3, bool), [])

    link(one, one)
    with pytest.raises(UserError, match="is one of itself"):
        open_source(f"select:{one}")
    link(one, other)
    link(other, one)
    with pytest.raises(UserError):
        open_source(f"select:{one}")


def test_a_selection_refuses_another_state_of_its_source(folder, tmp_path):
    spec, out = f"folder:{folder}", str(tmp_path / "kept.jsonl")
    curate(open_source(spec), spec, ANY, out)
    fingerprint = open_selection(out, open_source).fingerprint()
    assert fingerprint != open_source(spec).fingerprint()
    with open(folder / "photo03.png", "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="run i2i-prior curate again"):
        open_selection(out, open_source)


def test_a_mixture_is_refused_for_its_weights(command, folder, tmp_path):
    spec = f"mix:0.9*folder:{folder} + 0.1*folder:{folder}"
    out = tmp_path / "kept.jsonl"
    with pytest.raises(UserError, match="curate each part"):
        curate(open_source(spec), spec, ANY, out)
    ended = command("curate", "--source", "mix:a + b", "--out", out)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "mix:0.7*select:a.jsonl + 0.3*select:b.jsonl" in ended.err
    assert not out.exists()
    header = {"source": spec, "fingerprint": open_source(spec).fingerprint()}
    write_selection(out, header, np.ones(len(open_source(spec)), bool), [])
    with pytest.raises(UserError, match="lose the weights"):
        open_selection(str(out), open_source)


class Numbers:
    """Records that are named after their numbers."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Record:
        return Record(str(index), b"")

    def fingerprint(self) -> str:
        return "0" * 16


@pytest.mark.parametrize("n", [1, 7, 8, 511, 512, 513, 65_536, 140_001])
def test_a_selection_knows_the_number_of_every_record(n, tmp_path):
    kept = np.random.default_rng(n).random(n) < 0.3
    kept[-1] = True
    path = tmp_path / "kept.jsonl"
    header = {"source": "x", "fingerprint": "0" * 16}
    write_selection(path, header, kept, [])
    selected = Selected(Numbers(n), read_selection(str(path))[1])
    numbers = np.flatnonzero(kept)
    assert len(selected) == len(numbers)
    places = np.unique(np.linspace(0, len(numbers) - 1, 300).astype(int))
    for place in places.tolist():
        assert selected[place].name == str(numbers[place])
    assert selected[-1].name == str(n - 1)
    for outside in (len(numbers), -len(numbers) - 1):
        with pytest.raises(IndexError):
            selected[outside]


def test_damaged_selections_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "kept.jsonl"
    kept = np.random.default_rng(0).random(100_000) < 0.5
    header = {"source": "folder:/x", "fingerprint": "0" * 16}
    write_selection(path, header, kept, ['{"record": 1, "reason": "broken"}\n'])
    sound = path.read_bytes()
    end = sound.index(b'{"record"')
    rng = np.random.default_rng(1)
    refusals = []
    for _ in range(300):
        damaged = bytearray(sound)
        place = int(rng.choice([rng.integers(250), rng.integers(end)]))
        match rng.integers(3):
            case 0:
                damaged[place] ^= 1 << rng.integers(8)
            case 1:
                del damaged[place:]
            case 2:
                del damaged[place : place + int(rng.integers(1, 90))]
        path.write_bytes(damaged)
        try:
            _, bits = read_selection(str(path))
            assert len(bits) == 12_500
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 200
    assert all(str(path) in refusal for refusal in refusals)
    for text in ("", "[", "[]", "[" * 100_000, '{"format": 1}', "\xff"):
        path.write_text(text, "latin-1")
        with pytest.raises(UserError, match="no complete selection"):
            read_selection(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        read_selection(str(tmp_path / "nothing"))
    nothing = np.zeros(3, bool)
    write_selection(path, header, nothing, [])
    with pytest.raises(UserError, match="keeps no record"):
        Selected(Numbers(3), read_selection(str(path))[1])


class Unreadable(Numbers):
    """Every record from number 5 on fails, as on a disk that is gone."""

    def __getitem__(self, index: int) -> Record:
        if index >= 5:
            raise OSError(5, "Input/output error")
        return Record(str(index), np.zeros((4, 4, 3), np.uint8))


def test_too_many_broken_records_end_it_early(tmp_path):
    out, seen = tmp_path / "kept.jsonl", []
    with pytest.raises(UserError) as told:
        curate(Unreadable(5000), "x:y", CurateOptions(), out, seen.append)
    assert "51 of 56 records are broken" in str(told.value)
    assert "of 5,000 in all" in str(told.value)
    for number in (5, 6, 7):
        assert f"record {number} (cannot be read (Inp" in str(told.value)
    assert "record 8" not in str(told.value)
    assert len(seen) == 55
    with pytest.raises(UserError, match="1 of 6 records are broken"):
        curate(Unreadable(6), "x:y", CurateOptions(max_broken=0.1), out)
    assert not list(tmp_path.iterdir())
    counts = curate(Unreadable(6), "x:y", CurateOptions(max_broken=0.2), out)
    assert counts == {"broken": 1}


def test_a_selection_does_not_overwrite_its_source(folder, tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    spec = f"folder:{folder}"
    curate(open_source(spec), spec, ANY, first)
    spec = f"select:{first}"
    curate(open_source(spec), spec, ANY, second)
    before = first.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(first)
    for spec, out in (
        (f"select:{first}", first),
        (f"select:{second}", first),
        (f"select:{tmp_path}/link.jsonl", first),
    ):
        with pytest.raises(UserError, match="place of its own source"):
            curate(open_source(spec), spec, ANY, out)
    assert first.read_bytes() == before


def test_a_selection_of_nothing_is_not_written(tmp_path):
    options = CurateOptions(min_side=9)
    with pytest.raises(UserError, match=r"min_side 5\): loosen"):
        curate(Unreadable(5), "x:y", options, tmp_path / "kept.jsonl")
    assert not list(tmp_path.iterdir())


PLUGINS = """
def bright(image, record):
    assert image.dtype == "uint8" and image.shape[2] == 3
    return image.mean() > 100, f"{record.name} is dark"
def score(image, record):
    return image.mean() / 255
def truth(image, record):
    return image.mean() > 100
def fails(image, record):
    return 1 / 0
def writes(image, record):
    image[:] = 0
def nothing(image, record):
    pass
number = 3
"""


def look(level: int) -> FilterInput:
    image = np.full((9, 12, 3), level, np.uint8)
    return FilterInput(Record("a.png", image), 9, 12, image, lambda: image)


def test_functions_of_users_judge(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGINS)
    for spec, dark in (
        ("bright", "a.png is dark"),
        ("score:0.4", "scores 0.1961, below 0.4"),
        ("truth", "was refused"),
    ):
        plugin = load_plugin(f"{file}:{spec}")
        assert plugin.judge(look(200)) is None
        assert plugin.judge(look(50)) == dark
        assert plugin.name == f"mine.py:{spec.partition(':')[0]}"
        assert len(plugin.version) == 8


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{}:fails", "failed on a.png (ZeroDivisionError"),
        ("{}:writes", "failed on a.png (ValueError"),
        ("{}:nothing", "returned None for a.png"),
        ("{}:score", "mine.py:score:0.5"),
        ("{}:score:high", "which is no number"),
        ("{}:absent", "has no function 'absent'"),
        ("{}:number", "has no function 'number'"),
        ("{}", "write FILE.py:function"),
        ("elsewhere.py:f", "cannot be read"),
        ("{}wrong.py:f", "SyntaxError"),
    ],
)
def test_functions_that_will_not_do_are_told(spec, says, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGINS)
    Path(f"{file}wrong.py").write_text("def")
    with pytest.raises(UserError) as told:
        load_plugin(spec.format(file)).judge(look(50))
    assert says in str(told.value)


def test_a_failing_function_leaves_no_file(folder, tmp_path):
    file, out = tmp_path / "mine.py", tmp_path / "out" / "kept.jsonl"
    file.write_text(PLUGINS)
    spec = f"folder:{folder}"
    options = CurateOptions(filters=(f"{file}:fails",))
    with pytest.raises(UserError, match="correct the function"):
        curate(open_source(spec), spec, options, out)
    assert not out.exists()
    twice = CurateOptions(filters=(f"{file}:truth", f"{file}:truth"))
    with pytest.raises(UserError, match="given twice"):
        curate(open_source(spec), spec, twice, out)


def test_a_place_that_cannot_be_written_is_told_first(folder, tmp_path):
    spec = f"folder:{folder}"
    (tmp_path / "file").touch()
    seen: list[int] = []
    for place, says in (
        (tmp_path / "file" / "kept.jsonl", "file is a file, and"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UserError, match=says):
            curate(open_source(spec), spec, ANY, place, seen.append)
    assert not seen
    for place in (tmp_path, tmp_path / "file" / "deep" / "kept.jsonl"):
        with pytest.raises(UserError, match="cannot write selection"):
            write_selection(place, {}, np.ones(3, bool), [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]


def test_embeddings_say_which_are_near(folder, tmp_path):
    spec, out = f"folder:{folder}", str(tmp_path / "kept.jsonl")
    source = open_source(spec)
    rows = np.eye(len(source), dtype=np.float16)
    names = [source[i].name for i in range(len(source))]
    rows[names.index("photo09.png")] = rows[names.index("photo12.png")] * 3
    # A broken one is out already, and drops nothing.
    rows[names.index("photo05.png")] = rows[names.index("cut.png")]
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    options = CurateOptions(
        near_duplicates=str(path), threshold=0.99, max_broken=0.1
    )
    curate(source, spec, options, out)
    found = dropped_names(source, out)
    assert found["near_duplicate"] in (["photo09.png"], ["photo12.png"])
    header, _ = read_selection(out)
    assert header["options"]["threshold"] == 0.99


def test_embeddings_that_will_not_do_are_told(folder, tmp_path):
    spec, path = f"folder:{folder}", tmp_path / "rows.npy"
    source = open_source(spec)
    options = CurateOptions(near_duplicates=str(path))

    def refused() -> str:
        with pytest.raises(UserError) as told:
            curate(source, spec, options, tmp_path / "kept.jsonl")
        return str(told.value)

    assert "no .npy file" in refused()
    path.write_bytes(b"\x93NUMPY")
    assert "no .npy file" in refused()
    np.save(path, np.array([print] * len(source)), allow_pickle=True)
    assert "no .npy file" in refused()
    np.save(path, np.zeros((3, 4)))
    assert f"of shape ({len(source)}, D)" in refused()


@pytest.mark.parametrize(
    "options",
    [
        {"min_side": -1},
        {"max_aspect": 0.5},
        {"max_aspect": float("nan")},
        {"min_entropy": 9},
        {"max_broken": 1.5},
        {"max_broken": float("nan")},
        {"threshold": 3},
        {"near_duplicates": "phash", "threshold": 17},
        {"near_duplicates": "phash", "threshold": 2.5},
        {"near_duplicates": "phash", "threshold": float("nan")},
    ],
)
def test_options_out_of_range_are_told(options):
    with pytest.raises(UserError, match="give"):
        CurateOptions(**options)


def test_the_command_writes_selection_and_report(command, folder, tmp_path):
    (folder / "photo00.png").rename(folder / "photo<b>.png")
    out, spec = tmp_path / "kept.jsonl", f"folder:{folder}"
    ended = command(
        *("curate", "--source", spec, "--out", out, "--min-side", 17),
        *("--near-duplicates", "phash", "--report", tmp_path / "report"),
        *("--max-broken", 0.1),
    )
    assert ended.code == 0, ended.err
    assert f"of 24 kept: select:{out}" in ended.out
    assert "2 dropped: broken" in ended.out
    page = (tmp_path / "report" / "curation.html").read_text()
    # Three kept ones, each beside its copy; the small one; none of broken.
    assert page.count("<img") == 7
    assert "photo&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    assert "http" not in page
    assert "is empty" in page
    assert json.loads(out.read_text().splitlines()[0])["records"] == 24


@pytest.mark.parametrize(
    ("out", "report", "says"),
    [
        ("data", "report", "data is a folder"),
        ("kept.jsonl", "file", "file is a file, and curation.html needs"),
    ],
)
def test_the_command_looks_at_all_places_first(
    out, report, says, command, folder, tmp_path
):
    (tmp_path / "file").touch()
    ended = command(
        *("curate", "--source", f"folder:{folder}", "--out", tmp_path / out),
        *("--report", tmp_path / report),
    )
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("\n") == 1  # and no progress
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file"}


def test_what_is_cut_in_a_source_is_told(command, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    data = stored(Image.fromarray(photo)).data
    write_tar(tmp_path / "a.tar", {f"{i}.jpg": data for i in range(4)})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 3 * (len(data) // 512 + 2) * 512])
    spec, out = f"tar:{tmp_path}/a.tar", tmp_path / "kept.jsonl"
    ended = command("curate", "--source", spec, "--out", out)
    assert ended.code == 0, ended.err
    (note,) = open_source(spec).notes
    assert f"note: {note}" in ended.err.splitlines()
    assert open_selection(str(out), open_source).notes == [note]


def test_a_report_shows_some_of_very_many(tmp_path):
    class Grey(Numbers):
        def __getitem__(self, index: int) -> Record:
            shape = (40 if index else 90, 90, 3)
            level = index % 256
            return Record(str(index), np.full(shape, level, np.uint8))

    source, out = Grey(3000), str(tmp_path / "kept.jsonl")
    curate(source, "x:y", CurateOptions(min_side=50), out)
    page = write_curation_report(out, source, tmp_path).read_text()
    assert page.count("<img") == 40
    assert "a side below 50" in page
    assert len(page) < 500_000
