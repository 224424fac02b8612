"""Lists of prompts: read, checked, drawn from and hashed."""

from __future__ import annotations

import hashlib
import json

import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.prompts import (
    Prompt,
    prompt_hash,
    read_prompts,
    subset,
)


@pytest.fixture
def hundred() -> list[Prompt]:
    return [Prompt(str(n), f"caption {n}") for n in range(100)]


def test_a_prompt_a_line(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("a cat \r\n\n  two\u2028dogs\n".encode())
    assert read_prompts(file) == [
        Prompt("0", "a cat"),
        Prompt("2", "two\u2028dogs"),
    ]


def test_json_lines(tmp_path):
    file = tmp_path / "coco.jsonl"
    file.write_text(
        '{"id": 42, "caption": "a cat"}\n\n{"id":"x","caption":"é"}'
    )
    assert read_prompts(file) == [Prompt("42", "a cat"), Prompt("x", "é")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no prompts"),
        ("a cat", "line 1 of .* is no prompt"),
        ('{"id": 1, "caption": "a"}\n[1]', "line 2 of .* is no prompt"),
        ('{"id": 1}', "line 1 of .* is no prompt"),
        ('{"id": 1, "caption": " "}', "no usable id and caption"),
        ('{"id": true, "caption": "a"}', "no usable id and caption"),
        ('{"id": 1, "caption": "a"}\n{"id": "1", "caption": "b"}', "repeats"),
    ],
)
def test_mistakes_name_the_line(tmp_path, text, said):
    file = tmp_path / "list.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_prompts(file)


def test_a_list_that_is_no_text(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompts(tmp_path / "raw.txt")


def test_a_subset_is_seeded_nested_and_in_order(hundred):
    ten, twenty = subset(hundred, 10, 3), subset(hundred, 20, 3)
    assert ten == subset(hundred, 10, 3) != subset(hundred, 10, 4)
    assert set(ten) < set(twenty)
    assert [int(p.id) for p in twenty] == sorted({int(p.id) for p in twenty})
    assert subset(hundred, 100, 0) == hundred
    for count in (0, 101):
        with pytest.raises(UserError, match=f"{count} prompts of 100"):
            subset(hundred, count, 0)


def test_the_hash_is_of_ids_and_captions_in_order(hundred):
    prompts = [Prompt("7", "é"), Prompt("8", "b")]
    text = json.dumps([["7", "é"], ["8", "b"]], ensure_ascii=False)
    plain = text.replace(", ", ",").encode()
    assert prompt_hash(prompts) == hashlib.sha256(plain).hexdigest()
    assert prompt_hash(prompts[::-1]) != prompt_hash(prompts)
    other = [Prompt("6", "é"), Prompt("8", "b")]
    assert prompt_hash(other) != prompt_hash(prompts)
