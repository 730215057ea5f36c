"""What is no YAML, and what PyYAML trips over, is one error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.datasets.yaml_document import NotYamlError, yaml_document


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\nb: [", "not valid YAML", 2),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML", 1),
        ("a: \x00", "not valid YAML", None),
        ("a: 2024-13-01", "not valid YAML (month must be in 1..12)", None),
        ("a: !!bool x", "not valid YAML (a value that does not fit its `!!` mark)", None),
        ("a: !!int ''", "not valid YAML (a value that does not fit its `!!` mark)", None),
        ("a: !!timestamp x", "not valid YAML (a value that does not fit its `!!` mark)", None),
        ("a: 1" + ":1" * 200 + ".", "not valid YAML (int too large to convert to float)", None),
        ("[" * 5000, "not valid YAML (too many brackets in one another)", None),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line(text: str, problem: str, line: int | None) -> None:
    with pytest.raises(NotYamlError) as caught:
        yaml_document(text)
    assert str(caught.value) == problem
    assert caught.value.line == line


MARKS = ("bool", "int", "float", "timestamp", "binary", "null", "set", "omap", "pairs", "str")


@given(st.sampled_from(MARKS), st.text("x0b.:-1e_+Tz '\"[]{}", max_size=8))
def test_no_marked_value_is_another_error(mark: str, value: str) -> None:
    try:
        yaml_document(f"a: !!{mark} {value}")
    except NotYamlError as error:
        assert str(error).startswith("not valid YAML")
