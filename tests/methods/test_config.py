"""Configuration: layers, errors that help, typed values, round trips."""

from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_serializer, model_validator

from bench.errors import ConfigError
from bench.methods import Family, Method, MethodConfig
from bench.methods.config import (
    config_dict,
    config_fields,
    load_config_file,
    merge,
    parse_set,
    profile_values,
    resolve_config,
)


class Optimiser(MethodConfig):
    rate: float = 0.1
    warmup: int = 0


class Options(MethodConfig):
    """Options of Example.

    Attributes:
        rows: which rows an epoch
            holds.
        dim: width.
    """

    dim: int = Field(default=64, ge=1)
    rate: float = Field(default=1e-3, gt=0, description="step size")
    rows: Literal["all", "last"] = "all"
    cuts: tuple[int, ...] = (1, 5)
    clip: float | None = None
    optimiser: Optimiser = Optimiser()

    profiles: ClassVar[dict[str, dict[str, Any]]] = {
        "cpu": {"dim": 32},
        "paper": {"optimiser": {"warmup": 5}},
    }


class Example(Method):
    """An example."""

    name = "example"
    version = "1"
    family = Family.REFERENCE
    Config = Options

    def fit(self, view, context): ...

    def score(self, requests, context): ...


def test_overrides_win_over_the_profile_and_the_profile_over_defaults():
    assert resolve_config(Example, profile="paper").dim == 64
    assert resolve_config(Example, profile="cpu").dim == 32
    config = resolve_config(Example, profile="cpu", overrides={"dim": 16})
    assert (config.dim, config.rate) == (16, 1e-3)


def test_nested_values_merge_key_by_key():
    config = resolve_config(Example, profile="paper", overrides={"optimiser.rate": 0.5})
    assert (config.optimiser.rate, config.optimiser.warmup) == (0.5, 5)
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"dimm": 8}, ["'example'", "no configuration key 'dimm'", "Did you mean 'dim'", "rate"]),
        ({"optimiser.rat": 1}, ["'optimiser.rat'", "Did you mean 'rate'"]),
        ({"dim": "many"}, ["dim: found 'many' (str)", "expected a valid integer"]),
        ({"dim": 0}, ["dim: found 0 (int)", "greater than or equal to 1"]),
        ({"rows": "some"}, ["rows: found 'some'", "'all' or 'last'"]),
        ({"dim": 0, "rate": -1}, ["dim: found 0", "rate: found -1", "greater than 0"]),
        ({"optimiser": 3}, ["optimiser: found 3"]),
        ({"cuts": "x"}, ["cuts: found 'x'"]),
    ],
)
def test_error_names_field_value_and_expectation(overrides, parts):
    with pytest.raises(ConfigError) as caught:
        resolve_config(Example, overrides=overrides)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no profile 'papr'.*Did you mean 'paper'.*cpu, paper"):
        resolve_config(Example, profile="papr")


def test_required_key_says_how_to_give_it():
    class Needs(MethodConfig):
        path: str

    class Needy(Example):
        Config = Needs

    with pytest.raises(ConfigError, match=r"path: missing.*--set path="):
        resolve_config(Needy)


def test_messages_of_validators_are_sentences_and_lists_are_shown_as_they_are_typed():
    class Pair(MethodConfig):
        shares: tuple[float, ...] = (1.0,)
        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def _ordered(self):
            if self.low > self.high:
                raise ValueError("low is above high. Exchange them.")
            return self

    class Paired(Example):
        Config = Pair

    with pytest.raises(ConfigError, match=r"not accepted\. low is above high\. Exchange them\.$"):
        resolve_config(Paired, overrides={"low": 5})
    with pytest.raises(ConfigError, match=r"valid tuple, written as \[0\.5,0\.5\]\.$"):
        resolve_config(Paired, overrides={"shares": "0.5,0.5"})


def test_a_plain_model_rejects_unknown_keys_too_and_has_both_profiles():
    class Plain(BaseModel):
        depth: int = 1

    class Bare(Example):
        Config = Plain

    assert resolve_config(Bare, profile="paper", overrides={"depth": 2}).depth == 2
    with pytest.raises(ConfigError, match="no configuration key 'dept'"):
        resolve_config(Bare, overrides={"dept": 2})


@given(
    dim=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1e3),
    rows=st.sampled_from(["all", "last"]),
    cuts=st.lists(st.integers(0, 99), max_size=4),
    clip=st.none() | st.floats(0.1, 10),
)
def test_round_trip_through_yaml(dim, rate, rows, cuts, clip):
    overrides = {"dim": dim, "rate": rate, "rows": rows, "cuts": cuts, "clip": clip}
    config = resolve_config(Example, overrides=overrides)
    again = Options.model_validate(yaml.safe_load(yaml.safe_dump(config_dict(config))))
    assert again == config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=1e-3", 0.001),
        ("a=-2E4", -20000.0),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=text", "text"),
        ("a='1'", "1"),
        ("a=[1, 1e-3]", [1, 0.001]),
        ("a={b: 2}", {"b": 2}),
        ("a=b=c", "b=c"),
        (" a =1", 1),
    ],
)
def test_set_values_are_typed(text, value):
    parsed = parse_set([text])["a"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "expected key=value"),
        (["=1"], "expected key=value"),
        (["a=1", "a=2"], "set twice"),
        (["a=[1"], "not YAML"),
        (["a={"], "not YAML"),
        (["a=!!python/object/apply:os.system [ls]"], "not YAML"),
    ],
)
def test_set_errors(texts, message):
    with pytest.raises(ConfigError, match=message):
        parse_set(texts)


def test_config_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("dim: 8\nrate: 1e-2\noptimiser:\n  warmup: 3\n")
    config = resolve_config(Example, overrides=load_config_file(path))
    assert (config.dim, config.rate, config.optimiser.warmup) == (8, 0.01, 3)
    path.write_text("")
    assert load_config_file(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n", "holds list, expected a mapping"),
        (b"1: 2\n", "expected a mapping"),
        (b"a: 1\nb: [\n", "line 3: not YAML"),
        (b"a: \xff\n", "not YAML"),
        (None, "cannot read"),
    ],
)
def test_config_file_errors(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config_file(path)
    assert str(path) in str(caught.value)


def test_fields_are_described_by_field_or_docstring():
    fields = {field.name: field for field in config_fields(Options)}
    assert fields["rate"].description == "step size"
    assert fields["rows"].description == "which rows an epoch holds."
    assert fields["dim"].description == "width."
    assert fields["clip"].description == ""
    assert fields["clip"].type == "float | null"
    assert fields["rows"].type == "all | last"
    assert fields["cuts"].type == "tuple[int, ...]"


def test_groups_of_keys_are_described_as_they_are_set():
    fields = {field.name: field for field in config_fields(Options)}
    assert "optimiser" not in fields
    assert (fields["optimiser.rate"].default, fields["optimiser.warmup"].default) == (0.1, 0)
    assert resolve_config(Example, overrides={"optimiser.warmup": 3}).optimiser.warmup == 3
    assert profile_values(Options) == {"cpu": {"dim": 32}, "paper": {"optimiser.warmup": 5}}

    class Dotted(Options):
        profiles: ClassVar = {"cpu": {"optimiser.warmup": 5}}

    assert profile_values(Dotted) == {"cpu": {"optimiser.warmup": 5}}


def test_a_default_that_a_group_leaves_out_of_its_values_is_described():
    class Group(BaseModel):
        old: int = 1
        new: float = 2.0

        @model_serializer(mode="wrap")
        def _known_values(self, serialise):
            return {key: value for key, value in serialise(self).items() if key != "new"}

    class Grouped(MethodConfig):
        group: Group = Group()

    fields = {field.name: field.default for field in config_fields(Grouped)}
    assert fields == {"group.old": 1, "group.new": 2.0}
