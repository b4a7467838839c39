"""The generation parameters: bounds, types, and one problem for each bad value."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.contract.generation import MAX_PROBLEMS, GenerationParameters, ParameterError

BOUNDS = GenerationParameters.bounds()
DEFAULTS = GenerationParameters().to_mapping()
NUMBERS = [name for name, default in DEFAULTS.items() if not isinstance(default, bool)]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def problems_of(values: dict[str, Any]) -> dict[str, str]:
    try:
        GenerationParameters.from_mapping(values)
    except ParameterError as error:
        return error.problems
    return {}


def test_the_defaults_are_those_of_the_published_usage() -> None:
    assert {name: DEFAULTS[name] for name in ("max_length", "min_length", "top_p", "do_sample")} == {
        "max_length": 128,
        "min_length": 8,
        "top_p": 0.9,
        "do_sample": True,
    }


def test_the_defaults_are_within_their_own_bounds() -> None:
    assert problems_of(DEFAULTS) == {}


@given(st.dictionaries(st.sampled_from(list(DEFAULTS)) | st.text(max_size=6), json_values, max_size=5))
def test_any_json_is_accepted_or_refused_by_name_and_never_breaks(values: dict[str, Any]) -> None:
    assert problems_of(values).keys() <= {name[:64] for name in values}


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_is_taken_at_its_bounds_and_refused_beyond(name: str) -> None:
    bounds = BOUNDS[name]
    kind = float if isinstance(DEFAULTS[name], float) else int
    # min_length may not exceed max_length, which is another rule's business.
    extra = {"max_length": 512} if name == "min_length" else {}
    for inside in (bounds.minimum, bounds.maximum):
        assert problems_of(extra | {name: kind(inside)}) == {}
    for beyond in (bounds.minimum - 1, bounds.maximum + 1, 10**400, -(10**400)):
        assert list(problems_of({name: int(beyond)})) == [name]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, [1]])
def test_each_number_refuses_what_is_no_number(name: str, value: object) -> None:
    assert list(problems_of({name: value})) == [name]


def test_every_bad_value_is_named_at_once() -> None:
    assert problems_of({"top_p": 2, "top_k": -1, "do_sample": "yes", "beams": 1}).keys() == {
        "top_p",
        "top_k",
        "do_sample",
        "beams",
    }


def test_a_misspelt_name_is_answered_with_the_right_one() -> None:
    assert "temperature" in problems_of({"temprature": 1.0})["temprature"]


def test_a_models_own_defaults_stand_between_ours_and_what_is_given() -> None:
    own = {"min_length": 0, "top_p": 1, "max_length": 20}
    parameters = GenerationParameters.from_mapping({"max_length": 30}, own)
    assert (parameters.min_length, parameters.top_p, parameters.max_length) == (0, 1.0, 30)
    assert GenerationParameters.from_mapping({"max_length": 4}, {"min_length": 6}).min_length == 4
    with pytest.raises(ParameterError, match="more than max_length 20"):
        GenerationParameters.from_mapping({"min_length": 30}, own)


def test_whole_bounds_are_told_to_the_last_digit() -> None:
    assert "to 9007199254740991, not" in problems_of({"seed": 2**53})["seed"]


def test_min_length_gives_way_as_a_default_and_is_an_error_when_given() -> None:
    assert GenerationParameters.from_mapping({"max_length": 3}).min_length == 3
    assert list(problems_of({"max_length": 3, "min_length": 4})) == ["min_length"]


parameters = st.builds(
    GenerationParameters,
    max_length=st.integers(8, 512),
    min_length=st.integers(0, 8),
    do_sample=st.booleans(),
    temperature=st.floats(0.05, 5.0),
    top_p=st.floats(0.01, 1.0),
    seed=st.none() | st.integers(0, 2**53 - 1),
)


@given(parameters)
def test_parameters_survive_the_way_through_a_mapping(given_parameters: GenerationParameters) -> None:
    assert GenerationParameters.from_mapping(given_parameters.to_mapping()) == given_parameters


def test_a_flood_of_unknown_names_is_answered_at_once_and_briefly() -> None:
    with pytest.raises(ParameterError) as caught:
        GenerationParameters.from_mapping(
            {f"max_lengt{number}": 1 for number in range(300_000)}
        )  # minutes, if compared
    assert len(caught.value.problems) == MAX_PROBLEMS


@pytest.mark.parametrize("value", ["xylophone", ["xylophone"], {"xylophone": 1}])
def test_a_problem_quotes_no_text(value: object) -> None:
    with pytest.raises(ParameterError) as caught:
        GenerationParameters.from_mapping({"max_length": value, "top_p": value, "do_sample": value, "seed": value})
    assert len(caught.value.problems) == 4
    assert "xylophone" not in str(caught.value)
