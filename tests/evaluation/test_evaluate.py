"""Evaluation of samples with known results, and of the tiny run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import i2i_prior.inference.text_to_image
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from i2i_prior.evaluation import metrics, sampling
from i2i_prior.evaluation.condition_matching import ConditionMatcher
from i2i_prior.evaluation.eval_spec import EvalSpec, parse_metrics
from i2i_prior.evaluation.evaluate import (
    collect_reference,
    evaluate_samples,
    process_share,
)
from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.measures.conditions import condition_match
from i2i_prior.evaluation.metrics import METRICS, Metric, lower_is_better
from i2i_prior.evaluation.prompts import Prompt
from i2i_prior.evaluation.result import format_line, write_result
from i2i_prior.evaluation.sample_store import SampleStore
from i2i_prior.evaluation.sampling import SampleChunk, sample_prompts
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
    """Embedding by the blocks' colours."""
    return images[:, ::4, ::4].reshape(len(images), -1) - 127.5


def chunk(images: np.ndarray, samples: np.ndarray) -> SampleChunk:
    return SampleChunk(samples, images, images)


@pytest.fixture
def images() -> np.ndarray:
    return pictures(130)


def test_copies_have_no_distance_and_match(tiny, images):
    plan = EvalSpec.from_config(tiny("evaluate.metrics=fd,match,fidelity"))
    samples = images[:, None].repeat(2, axis=1)
    chunks = [
        chunk(images[i : i + 50], samples[i : i + 50]) for i in (0, 50, 100)
    ]
    side = collect([images], plan.extractor)
    result, picture = evaluate_samples(chunks, plan, lambda: side, colours)
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


def test_groups_do_not_depend_on_chunks(tiny, images):
    samples = pictures(130, seed=1)[:, None]
    plan = EvalSpec.from_config(tiny("evaluate.metrics=match,fidelity"))
    side = collect([images], plan.extractor, moments=())

    def measured(size: int):
        chunks = (
            chunk(images[i : i + size], samples[i : i + size])
            for i in range(0, 130, size)
        )
        return evaluate_samples(chunks, plan, lambda: side, colours)

    (whole, picture), (parts, other) = measured(130), measured(7)
    metrics = whole["metrics"]
    assert metrics == parts["metrics"]
    assert whole["intervals"] == parts["intervals"]
    assert np.array_equal(picture, other)
    # Two groups of 64; the two conditions that are left over do not count.
    thumbnails = FEATURES["thumbnails"]
    groups = [
        condition_match(images[i:][:64], samples[i:][:64], thumbnails)
        for i in (0, 64)
    ]
    assert metrics["mean_rank"] == np.mean([g["mean_rank"] for g in groups])
    assert metrics["chance"] == 1 / 64


def test_fidelity_by_the_features_of_the_distance(tiny, images):
    plan = EvalSpec.from_config(tiny("evaluate.metrics=fidelity_features"))
    side = collect([images], plan.extractor)

    def top1(samples: np.ndarray) -> float:
        chunks = [chunk(images, samples[:, None])]
        found, _ = evaluate_samples(chunks, plan, lambda: side)
        return found["metrics"]["fidelity-colourtexture_top1"]

    assert top1(images) == 1
    assert top1(images[::-1]) < 0.05
    assert not lower_is_better("fidelity-colourtexture_top1")


def test_clip_score_wants_captions(tiny, images):
    extractor = EvalSpec.from_config(tiny("evaluate.metrics=fd")).extractor
    clip = replace(extractor, name="clip", identity={"model": "ViT-T/8"})
    plan = EvalSpec(clip, ("clip_score",))
    side = collect([images], clip)

    def never():
        raise AssertionError("samples were drawn before the refusal")
        yield

    with pytest.raises(UserError, match="--prompts FILE"):
        evaluate_samples(never(), plan, lambda: side)
    texts = collect([images], clip, keep=[clip.first]).features[clip.first]
    result, _ = evaluate_samples(
        [SampleChunk(images[:, None])],
        plan,
        lambda: side,
        captions=lambda: texts,
    )
    score = result["metrics"]["CLIP-score-ViT-T/8-x100"]
    assert score == pytest.approx(100)  # each text is embedded as its image


def test_the_picture_shows_both_ends(images):
    samples = pictures(130, seed=1)[:, None]
    samples[5], samples[70] = images[5], 255 - images[70]  # cosine 1 and -1
    fidelity = METRICS["fidelity"].match
    matcher = ConditionMatcher({"fidelity": fidelity}, encoder=colours)
    matcher.add(chunk(images, samples))
    matcher.finish()
    shown = matcher.best_and_worst
    scores = [score for score, _, _ in shown]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)
    assert scores[-1] == pytest.approx(-1)
    assert np.array_equal(shown[0][1], images[5])
    assert np.array_equal(shown[-1][1], images[70])


def test_processes_share_the_samples(monkeypatch, images):
    samples = images.reshape(65, 2, 16, 16, 3)
    chunks = [
        SampleChunk(samples[:9]),
        SampleChunk(samples[9:10]),
        SampleChunk(samples[10:]),
    ]
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda p=process: p)
        share = np.concatenate(list(process_share(chunks)))
        assert np.array_equal(share, images[process::3])


def test_a_statistics_file_is_the_other_side(tiny, images, tmp_path):
    plan = EvalSpec.from_config(tiny("evaluate.metrics=fd"))
    side = collect([images], plan.extractor)
    side.provenance = {"identity": dict(plan.extractor.identity)}
    save_statistics(tmp_path / "ref.npz", side)
    config = tiny(f"evaluate.reference={tmp_path}/ref.npz")
    source = open_source(config.data.held_out)
    found = collect_reference(config, source, plan)
    result, picture = evaluate_samples(
        [SampleChunk(images[:, None])], plan, lambda: found
    )
    assert result["metrics"] == {"FD-colourtexture": pytest.approx(0, abs=1e-9)}
    assert result["reference"]["file"] == "ref.npz"
    assert picture is None


def test_what_can_be_asked_for(tiny):
    assert parse_metrics("kid, match,fd,kid") == ("match", "kid", "fd")
    with pytest.raises(UserError, match=r"no metric 'best'.*fidelity"):
        parse_metrics("fd,best")
    with pytest.raises(UserError, match="features of inception"):
        EvalSpec.from_config(tiny("evaluate.metrics=fid"))
    assert not EvalSpec.from_config(tiny()).truncate


def brightness(comparison) -> dict[str, float]:
    """Toy metric: difference of the mean first features, R, of both sides."""
    reference, generated = comparison.features()
    name = comparison.result_name("brightness")
    return {name: float(abs(reference[:, 0].mean() - generated[:, 0].mean()))}


def darkest(group) -> float:
    """Toy metric of conditions: the darkest sample of a group."""
    return float(group.samples.mean((1, 2, 3, 4)).min())


def test_a_metric_is_one_entry(tiny, images, monkeypatch, tmp_path):
    """Registered, it is computed, reported, checked and has a direction."""
    of_sets = Metric(brightness, {"brightness*": True}, features=("",))
    of_conditions = Metric(
        lambda comparison: {"darkest": min(comparison.matches["darkest"])},
        {"darkest": False},
        match=darkest,
    )
    monkeypatch.setitem(metrics.METRICS, "brightness", of_sets)
    monkeypatch.setitem(metrics.METRICS, "darkest", of_conditions)
    spec = EvalSpec.from_config(tiny("evaluate.metrics=brightness,darkest"))
    assert spec.metrics == ("darkest", "brightness")
    side = collect([images], spec.extractor, keep=spec.reference)
    side.provenance = {"file": "images.npz"}
    chunks = [chunk(images, 255 - images[:, None])]
    result, picture = evaluate_samples(chunks, spec, lambda: side)
    first = 5 * images[..., 0].mean((1, 2)) / 255  # COLOUR_WEIGHT x mean R
    found = result["metrics"]
    assert list(found) == ["darkest", "brightness-colourtexture"]
    assert found["brightness-colourtexture"] == pytest.approx(
        abs(2 * first.mean() - 5), rel=1e-4
    )
    whole = (255 - images)[:128].mean((1, 2, 3))  # two groups of 64
    assert found["darkest"] == pytest.approx(whole.min())
    value = found["brightness-colourtexture"]
    assert f"brightness-colourtexture {value:.4g}, N 130" in format_line(result)
    assert lower_is_better("brightness-colourtexture")
    assert not lower_is_better("darkest")
    assert picture is None
    write_result(tmp_path / "result.json", result)
    assert (
        json.loads((tmp_path / "result.json").read_text())["metrics"] == found
    )


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
    """Copy of the run that all tests here evaluate."""
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
    """Checks with a fake model: sample i shows i and its caption's length."""

    def draw(*arguments, seed: int, first: int, **options):
        generator, parameters, captions, text_encoder = arguments
        assert (generator, parameters) == ("generator", {})
        assert text_encoder == "encoder"
        assert options["steps"] == 2
        assert len(captions) == batch_size  # always: one compilation
        images = np.zeros((len(captions), 4, 4, 3), np.uint8)
        for k, caption in enumerate(captions):
            images[k] = seed, first + k, len(caption)
        return images

    monkeypatch.setattr(i2i_prior.inference.text_to_image, "draw", draw)
    monkeypatch.setattr(sampling, "CHUNK", 3)
    config = tiny(f"evaluate.batch_size={batch_size}", "seed=9")
    prompts = [Prompt(str(i), "x" * (i + 1)) for i in range(5)]
    samples = SampleStore(tmp_path / "samples", {})
    done = []
    chunks = list(
        sample_prompts(
            *(config, prompts, "encoder", "generator", {}),
            *(samples, done.append),
        )
    )
    found = np.concatenate([chunk.samples[:, 0, 0, 0] for chunk in chunks])
    assert found.tolist() == [[9, i, i + 1] for i in range(5)]
    assert [len(chunk.samples) for chunk in chunks] == [3, 2]
    assert done == sorted(done)
    assert done[-1] == 5
