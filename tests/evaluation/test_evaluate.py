"""Scores of samples whose answer is known, and of the tiny run's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import i2i_prior.inference.text_to_image
from i2i_prior.data.sources import open_source
from i2i_prior.errors import UserError
from i2i_prior.evaluation import sample_chunks
from i2i_prior.evaluation.condition_matching import (
    ConditionMatcher,
    Embedder,
)
from i2i_prior.evaluation.directions import lower_is_better
from i2i_prior.evaluation.evaluate import (
    EvalSpec,
    evaluate,
    every,
    reference_side,
    split_metrics,
    wanted,
)
from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.prompts import Prompt
from i2i_prior.evaluation.retrieval import condition_match
from i2i_prior.evaluation.sample_chunks import (
    Chunk,
    of_prompts,
)
from i2i_prior.evaluation.sample_store import Samples
from i2i_prior.evaluation.sets.collect import collect
from i2i_prior.evaluation.sets.statistics_files import save_statistics
from i2i_prior.inference.generator import Generator
from i2i_prior.tasks.registry import make_task


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Random colours in 4 x 4 blocks, uint8 (count, 16, 16, 3)."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


def colours(images: np.ndarray) -> np.ndarray:
    """An embedding: the blocks' colours."""
    return images[:, ::4, ::4].reshape(len(images), -1) - 127.5


EYE = Embedder("fidelity", colours, views=True)


def chunk(images: np.ndarray, samples: np.ndarray) -> Chunk:
    return Chunk(samples, images, images)


@pytest.fixture
def images() -> np.ndarray:
    return pictures(130)


def test_copies_have_no_distance_and_listen(tiny, images):
    plan = wanted(tiny("evaluate.metrics=fd,match,fidelity"))
    samples = images[:, None].repeat(2, axis=1)
    chunks = [
        chunk(images[i : i + 50], samples[i : i + 50]) for i in (0, 50, 100)
    ]
    side = collect([images], plan.extractor)
    result, picture = evaluate(chunks, plan, lambda: side, colours)
    found = result["metrics"]
    assert found["top1"] == found["fidelity_top1"] == 1
    assert found["fidelity_cosine"] == pytest.approx(1)
    assert found["fidelity_diversity"] == pytest.approx(0, abs=1e-9)
    # Every image twice: the divisor n - 1 differs, and nothing else.
    assert found["FD-colourtexture"] == pytest.approx(0, abs=1e-3)
    assert set(result["intervals"]) == {
        "FD-colourtexture",
        "fidelity_cosine",
        "fidelity_unrelated",
        "fidelity_top1",
        "fidelity_diversity",
    }
    assert result["num_samples"] == 260
    json.dumps(result)  # plain values
    assert picture.dtype == np.uint8


def test_groups_do_not_depend_on_chunks(images):
    samples = pictures(130, seed=1)[:, None]
    whole, parts = (ConditionMatcher([EYE], match=True) for _ in range(2))
    whole.add(chunk(images, samples))
    for i in range(0, 130, 7):
        parts.add(chunk(images[i : i + 7], samples[i : i + 7]))
    metrics, intervals = whole.finish()
    assert (metrics, intervals) == parts.finish()
    assert np.array_equal(whole.picture(), parts.picture())
    # Two groups of 64; the two conditions that are left over do not count.
    thumbnails = FEATURES["thumbnails"]
    groups = [
        condition_match(images[i:][:64], samples[i:][:64], thumbnails)
        for i in (0, 64)
    ]
    assert metrics["mean_rank"] == np.mean([g["mean_rank"] for g in groups])
    assert metrics["chance"] == 1 / 64


def test_fidelity_by_the_features_of_the_distance(tiny, images):
    plan = wanted(tiny("evaluate.metrics=fidelity_features"))
    side = collect([images], plan.extractor)

    def top1(samples: np.ndarray) -> float:
        chunks = [chunk(images, samples[:, None])]
        found, _ = evaluate(chunks, plan, lambda: side)
        return found["metrics"]["fidelity-colourtexture_top1"]

    assert top1(images) == 1
    assert top1(images[::-1]) < 0.05
    assert not lower_is_better("fidelity-colourtexture_top1")


def test_clip_score_wants_captions(tiny, images):
    extractor = wanted(tiny("evaluate.metrics=fd")).extractor
    clip = replace(extractor, name="clip", identity={"model": "ViT-T/8"})
    plan = EvalSpec(clip, ("clip_score",), ())
    side = collect([images], clip)

    def never():
        raise AssertionError("samples were drawn before the refusal")
        yield

    with pytest.raises(UserError, match="--prompts FILE"):
        evaluate(never(), plan, lambda: side)
    texts = collect([images], clip, keep=[clip.first]).features[clip.first]
    result, _ = evaluate(
        [Chunk(images[:, None])], plan, lambda: side, captions=lambda: texts
    )
    score = result["metrics"]["CLIP-score-ViT-T/8-x100"]
    assert score == pytest.approx(100)  # each text is embedded as its image


def test_the_picture_shows_both_ends(images):
    samples = pictures(130, seed=1)[:, None]
    samples[5], samples[70] = images[5], 255 - images[70]  # cosine 1 and -1
    listening = ConditionMatcher([EYE], match=False)
    listening.add(chunk(images, samples))
    listening.finish()
    scores = [score for score, _, _ in listening._ends]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)
    assert scores[-1] == pytest.approx(-1)
    assert np.array_equal(listening._ends[0][1], images[5])
    assert np.array_equal(listening._ends[-1][1], images[70])


def test_processes_share_the_samples(monkeypatch, images):
    samples = images.reshape(65, 2, 16, 16, 3)
    chunks = [Chunk(samples[:9]), Chunk(samples[9:10]), Chunk(samples[10:])]
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda p=process: p)
        share = np.concatenate(list(every(chunks, [])))
        assert np.array_equal(share, images[process::3])


def test_a_statistics_file_is_the_other_side(tiny, images, tmp_path):
    plan = wanted(tiny("evaluate.metrics=fd"))
    side = collect([images], plan.extractor)
    side.provenance = {"identity": dict(plan.extractor.identity)}
    save_statistics(tmp_path / "ref.npz", side)
    config = tiny(f"evaluate.reference={tmp_path}/ref.npz")
    source = open_source(config.data.held_out)
    found = reference_side(config, source, plan)
    result, picture = evaluate([Chunk(images[:, None])], plan, lambda: found)
    assert result["metrics"] == {"FD-colourtexture": pytest.approx(0, abs=1e-9)}
    assert result["reference"]["file"] == "ref.npz"
    assert picture is None


def test_what_can_be_asked_for(tiny):
    assert split_metrics("kid, match,fd,kid") == (("match",), ("kid", "fd"))
    with pytest.raises(UserError, match=r"no metric 'best'.*fidelity"):
        split_metrics("fd,best")
    with pytest.raises(UserError, match="features of inception"):
        wanted(tiny("evaluate.metrics=fid"))
    assert not wanted(tiny()).truncate


def test_grey_levels_are_rounded_or_cut_off(tiny):
    # 127.5 (x + 1): 127.5, 254.9, 0.4, and beyond both ends
    latents = np.array([0.0, 254.9 / 127.5 - 1, 0.4 / 127.5 - 1, 2, -2])
    latents = np.broadcast_to(latents[:, None, None, None], (5, 8, 8, 3))
    for truncate, levels in ((False, 255), (True, 254)):
        generator = Generator(make_task(tiny()), truncate=truncate)
        found = generator.decode({}, latents)[:, 0, 0, 0].tolist()
        assert found == [128 - truncate, levels, 0, 255, 0]


@pytest.fixture(scope="module")
def scored(run_directory, tmp_path_factory):
    """A copy of the run, to be scored by all tests here."""
    place = tmp_path_factory.mktemp("scored") / "run"
    return shutil.copytree(run_directory, place)


def test_the_command_draws_once(command, scored, monkeypatch, tmp_path):
    arguments = "evaluate", "--workdir", scored, "--num-samples", 24
    arguments += "--per-condition", 2, "--metrics"
    file = tmp_path / "samples.npz"
    ended = command(*arguments, "match,fidelity", "--npz", file)
    assert ended.code == 0, ended.err
    (folder,) = (p for p in (scored / "evaluations").iterdir() if p.is_dir())
    assert folder.name.startswith("00000006-")
    with np.load(file) as samples:
        assert np.array_equal(samples["arr_0"], np.load(folder / "000000.npy"))
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["num_samples"] == 24
    assert len(settings["checkpoint"]) == 16

    def never(*arguments):
        raise AssertionError("drawn again")

    monkeypatch.setattr(Generator, "images", never)
    ended = command(*arguments, "fd,pr,match")
    assert ended.code == 0, ended.err
    assert "FD-colourtexture" in ended.out
    assert "+- " in ended.out
    (scores,) = (scored / "evaluations").glob(f"*-{folder.name[9:]}.json")
    result = json.loads(scores.read_text())
    assert {"top1", "precision-colourtexture"} <= set(result["metrics"])
    assert result["samples"] == folder.name
    # What the run itself has written stays.
    assert (scored / "evaluations/00000006-colour_texture.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics", "fid"), "features of inception"),
        (("--metrics", "magic"), "no metric 'magic'"),
        (("--per-condition", "3", "--num-samples", "4"), "multiple of 3"),
        (("--per-condition", "0"), "--per-condition must be 1 or more"),
        (("--step", "best"), "has no best checkpoint"),
        (("--prompts", "p.txt"), "needs --text-encoder FILE"),
        (("--prompts", "p.txt", "--metrics", "match"), "prompts are none"),
    ],
)
def test_mistakes(command, scored, arguments, said):
    before = sorted(path.name for path in scored.rglob("*"))
    ended = command("evaluate", "--workdir", scored, *arguments)
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert sorted(path.name for path in scored.rglob("*")) == before


@pytest.mark.parametrize("batch_size", [2, 7])
def test_prompts_are_drawn_one_by_one(tiny, monkeypatch, tmp_path, batch_size):
    """Stands for the model: sample i shows i, and its caption's length."""

    def draw(prior, captions, text_encoder, *, seed, first, **options):
        assert (prior, text_encoder) == ("prior", "encoder")
        assert options["steps"] == 2
        assert len(captions) == batch_size  # always: one compilation
        images = np.zeros((len(captions), 4, 4, 3), np.uint8)
        for k, caption in enumerate(captions):
            images[k] = seed, first + k, len(caption)
        return images

    monkeypatch.setattr(i2i_prior.inference.text_to_image, "draw", draw)
    monkeypatch.setattr(sample_chunks, "CHUNK", 3)
    config = tiny(f"evaluate.batch_size={batch_size}", "seed=9")
    prompts = [Prompt(str(i), "x" * (i + 1)) for i in range(5)]
    samples = Samples(tmp_path / "samples", {})
    done = []
    chunks = list(
        of_prompts(config, "prior", prompts, "encoder", samples, done.append)
    )
    found = np.concatenate([chunk.samples[:, 0, 0, 0] for chunk in chunks])
    assert found.tolist() == [[9, i, i + 1] for i in range(5)]
    assert [len(chunk.samples) for chunk in chunks] == [3, 2]
    assert done == sorted(done)
    assert done[-1] == 5
