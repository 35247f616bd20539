import pytest
from gulliver.spaces.quoted import quoted


@pytest.mark.parametrize("value", [None, True, 7, -1.5, "half", ["a", 1], {"a": 1}])
def test_what_is_short_is_quoted_as_python_writes_it(value):
    assert quoted(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["a" * 10**5, b"a" * 10**5, [[[1] * 99] * 99] * 99, 10**100, -(1 << 10**6)],
    ids=["text", "bytes", "lists", "a hundred digits", "digits that Python does not write"],
)
def test_what_is_long_is_cut_to_one_short_line(value):
    assert len(quoted(value)) < 150
