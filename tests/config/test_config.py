"""The fields of a config: typed, locked, documented, hashed."""

from __future__ import annotations

import pytest

from i2i_prior.config import (
    FIELDS,
    RESUMABLE,
    config_hash,
    default_config,
    explain,
    flatten,
    from_flat,
    load_config,
    parse_arg,
    recorded,
    set_field,
)
from i2i_prior.config import config as config_module
from i2i_prior.config.options import Field
from i2i_prior.errors import UserError

NAMES = list(FIELDS)
# Another value of the same type for every field.
OTHERS = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.5}


def changed(name: str):
    config = default_config()
    value = flatten(config)[name]
    other = OTHERS.get(type(value), lambda v: v + "x")(value)
    set_field(config, name, str(other))
    assert flatten(config)[name] == other
    return config


def test_fields_are_documented_once_and_of_plain_types():
    assert len(set(NAMES)) == len(NAMES)
    for name, field in FIELDS.items():
        assert type(field.default) in (bool, int, float, str), name
        assert len(field.help) >= 5, name
        field.check(field.default)
    assert set(NAMES) >= RESUMABLE


def test_explain_has_one_line_a_field_with_its_meaning():
    lines = explain(default_config()).splitlines()
    assert len(lines) == len(FIELDS)
    for line, field in zip(lines, FIELDS.values(), strict=True):
        assert line.split()[0] == field.name
        assert repr(field.default) in line
        assert line.endswith(field.help)


def test_default_config_is_locked_and_typed():
    config = default_config()
    with pytest.raises(AttributeError, match="heads"):
        config.model.headz = 3
    with pytest.raises(TypeError):
        config.model.heads = "many"
    assert default_config() is not config


def test_flat_round_trip_keeps_values_and_types():
    config = default_config()
    config.optim.epsilon = 1e-15
    config.data.source = "folder:/a=b, c/'d' é"
    config.train.tensorboard = False
    config.model.one_token = True
    flat = flatten(config)
    again = flatten(from_flat(flat))
    assert list(flat) == NAMES
    assert again == flat
    assert [type(v) for v in again.values()] == [type(v) for v in flat.values()]


@pytest.mark.parametrize("text", ["", "1", "True", "1e5", "None", " x ", "-1"])
def test_strings_that_look_like_numbers_stay_strings(text):
    config = default_config()
    config.name = text
    assert from_flat(flatten(config)).name == text


def test_from_flat_reads_what_earlier_runs_called_imagenet():
    config = from_flat({"encoder.pixels": "imagenet"})
    assert config.encoder.pixels == "family"
    assert config.encoder.family == "dino"


def test_from_flat_refuses_unknown_names():
    with pytest.raises(UserError, match=r"no field model\.hads"):
        from_flat({"model.hads": 3})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.steps", "1e5", 100_000),
        ("train.steps", " 7 ", 7),
        ("mesh.fsdp", "-1", -1),
        ("optim.learning_rate", "3", 3.0),
        ("optim.learning_rate", "1e-4", 1e-4),
        ("train.tensorboard", "false", False),
        ("train.tensorboard", "True", True),
        ("data.source", "tar:/x/*.tar", "tar:/x/*.tar"),
        ("train.init_from", "", ""),
    ],
)
def test_overrides_take_the_type_of_the_field(name, text, value):
    config = default_config()
    set_field(config, name, text)
    found = flatten(config)[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("train.steps", "many", "an integer"),
        ("train.steps", "1.5", "an integer"),
        ("train.steps", "True", "an integer"),
        ("train.steps", "", "an integer"),
        ("optim.learning_rate", "fast", "a number"),
        ("optim.learning_rate", "(1, 2)", "a number"),
        ("train.tensorboard", "1", "true or false"),
        ("train.tensorboard", "yes", "true or false"),
    ],
)
def test_values_of_another_type_are_refused(name, text, wanted):
    config = default_config()
    with pytest.raises(UserError, match=f"{name} takes {wanted}, not") as error:
        set_field(config, name, text)
    assert repr(text) in str(error.value)
    assert flatten(config) == flatten(default_config())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.head", "did you mean model.heads?"),
        ("optim.learnign_rate", "did you mean optim.learning_rate?"),
        ("batch_size", "did you mean data.batch_size?"),
    ],
)
def test_unknown_fields_come_with_a_suggestion(name, hint):
    with pytest.raises(UserError, match=f"no field {name}") as error:
        set_field(default_config(), name, "3")
    assert str(error.value).endswith(hint)


def test_nothing_is_suggested_for_what_looks_like_nothing():
    with pytest.raises(UserError, match=r"no field zzz$"):
        set_field(default_config(), "zzz", "3")


@pytest.mark.parametrize("section", ["model", "data", "mesh"])
def test_a_section_is_no_field(section):
    with pytest.raises(UserError, match=f"no field {section}"):
        set_field(default_config(), section, "3")


@pytest.mark.parametrize("name", NAMES)
def test_the_hash_ignores_resumable_fields_only(name):
    same = config_hash(changed(name)) == config_hash(default_config())
    assert same == (name in RESUMABLE)


def test_what_shapes_learning_is_not_resumable():
    shaping = {
        "seed",
        "data.source",
        "data.batch_size",
        "model.precision",
        "train.accumulate",
        "train.ema_decay",
        "optim.learning_rate",
        "train.init_from",
        "encoder.weights",
    }
    assert not shaping & RESUMABLE


def test_parse_arg():
    known = {"res": 256, "name": "x", "rate": 0.1, "fast": False}
    assert parse_arg("", **known).to_dict() == known
    options = parse_arg("res=512,name=a=b,fast", **known)
    assert options.to_dict() == {**known, "res": 512, "name": "a=b", "fast": 1}
    with pytest.raises(UserError, match=r"'size' is unknown.*res, name"):
        parse_arg("size=3", **known)
    with pytest.raises(UserError, match="argument res takes an integer"):
        parse_arg("res=big", **known)


def write(path, body):
    path.write_text(
        "from i2i_prior.config import default_config, parse_arg\n"
        f"def get_config(arg=''):\n    config = default_config()\n{body}\n"
        "    return config\n"
    )
    return str(path)


def test_load_config_runs_the_file_and_applies_overrides(tmp_path):
    body = (
        "    config.data.image_size = parse_arg(arg, res=8).res\n"
        "    config.name = 'mine'"
    )
    file = write(tmp_path / "mine.py", body)
    config = load_config(file)
    assert (config.name, config.data.image_size) == ("mine", 8)
    config = load_config(f"{file}:res=16", ["name=a=b", "seed=3"])
    assert (config.name, config.data.image_size) == ("a=b", 16)
    assert config.seed == 3
    assert config.is_locked


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    config.model.headz = 3", "heads"),
        ("    config.model.heads = 'many'", "heads"),
        ("    config.train.steps = 1.5", "steps"),
        ("    config.model = 3", "model"),
        ("    raise ValueError('of the value')", "of the value"),
        ("    import nonexistent_module_x", "nonexistent_module_x"),
        ("    open('/nowhere/x')", "/nowhere/x"),
        ("    this is no Python", "line 4"),
        ("    config = None", "get_config"),
        ("    del config.model.heads", "locked"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence_that_names_it(
    tmp_path, body, said
):
    file = write(tmp_path / "mine.py", body)
    with pytest.raises(UserError) as error:
        load_config(file)
    sentence = str(error.value)
    assert file in sentence
    assert said in sentence
    assert "\n" not in sentence


def test_missing_files_and_half_overrides(tmp_path):
    with pytest.raises(UserError, match=r"no config file .*x\.py"):
        load_config(str(tmp_path / "x.py"))
    with pytest.raises(UserError, match=r"x\.py"):
        load_config(str(tmp_path / "x.py:res=3"))
    file = write(tmp_path / "mine.py", "    pass")
    with pytest.raises(UserError, match="seed needs =value"):
        load_config(file, ["seed"])
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(UserError, match="get_config"):
        load_config(str(empty))


def test_names_of_earlier_versions_are_read():
    config = default_config()
    set_field(config, "conditioner.choice", "patches")
    set_field(config, "diffusion.convention", "unit")
    assert config.conditioner.tokens_from == "patches"
    assert config.diffusion.time_convention == "repa"
    flat = {"diffusion.convention": "own", "conditioner.choice": "pyramid"}
    assert from_flat(flat).diffusion.time_convention == "native"


def test_a_renamed_field_is_noted_once(capsys):
    config_module._note.cache_clear()
    for _ in range(2):
        from_flat({"conditioner.choice": "cls"})
    note = "note: conditioner.choice is called conditioner.tokens_from now\n"
    assert capsys.readouterr().err == note


def test_the_hash_of_a_config_outlives_renamed_and_added_fields():
    # That of the build before its fields were renamed.
    assert config_hash(default_config()) == "98c20f498131"
    config = default_config()
    config.conditioner.tokens_from = "patches"
    config.diffusion.time_convention = "repa"
    config.train.steps = 7
    flat = recorded(flatten(config))
    assert flat["conditioner.choice"] == "patches"
    assert flat["diffusion.convention"] == "unit"
    assert "task" not in flat
    config.task = "paired"
    assert recorded(flatten(config))["task"] == "paired"


def test_a_config_file_may_take_no_argument(tmp_path):
    file = tmp_path / "plain.py"
    file.write_text(
        "from i2i_prior.config import default_config\n"
        "def get_config():\n    return default_config()\n"
    )
    assert load_config(str(file)).train.steps == 400_000
    with pytest.raises(UserError, match="takes no argument, not 'res=3'"):
        load_config(f"{file}:res=3")


def test_an_old_name_in_a_config_file_is_answered_with_the_new_one(tmp_path):
    spec = write(tmp_path / "old.py", "    config.conditioner.choice = 'cls'")
    with pytest.raises(UserError, match=r"is called conditioner\.tokens_from"):
        load_config(spec)


@pytest.mark.parametrize(
    ("facts", "value", "says"),
    [
        ({"least": 1}, 0, "must be 1 or more"),
        ({"least": 0, "most": 1}, 2, "must be 0 to 1"),
        ({"least": 0, "below": 1}, 1, "must be 0 or more, and below 1"),
        ({"choices": ("a", "b")}, "c", "choose a or b"),
        ({}, float("nan"), "give a number"),
    ],
)
def test_a_field_knows_its_bounds(facts, value, says):
    field = Field(value, "for the test", name="x.y", **facts)
    with pytest.raises(UserError, match=says):
        field.check(value)


def test_old_names_in_an_exported_file_are_read_without_a_note(capsys):
    config_module._note.cache_clear()
    config = default_config()
    config.conditioner.tokens_from = "patches"
    flat = recorded(flatten(config))
    assert flatten(from_flat(flat, note=False)) == flatten(config)
    assert not capsys.readouterr().err
