"""Which reports are valid, and how a long one is truncated (contract, section 1)."""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import UsageError
from headway.worker.reporter import Reporter
from headway.worker.validation import ATTRIBUTES_LIMIT, MESSAGE_LIMIT, to_meta, truncate, validate


class Colour(IntEnum):
    RED = 3


class Grams(float):
    pass


WRONG_NUMBERS = [
    True,
    False,
    "5",
    None,
    Decimal(5),
    Fraction(1, 2),
    1j,
    [5],
    float("nan"),
    float("inf"),
    float("-inf"),
    -1,
    -0.5,
]


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["current", "total"])
def test_invalid_count_raises_and_is_named(name: str, value: Any) -> None:
    """bool, str, None, Decimal, NaN, infinities and negatives raise a `UsageError` with the
    argument's name.
    """
    with pytest.raises(UsageError, match=rf"^progress: {name} must be .*; "):
        Reporter(None).update(**{"current": 1, "total": 2} | {name: value})


@pytest.mark.parametrize(
    ("current", "total"),
    [
        (7, 5),
        (0, 0),
        (3, 0),
        (0.5, 1),
        (2.5, 5.5),
        (10**40, 10**41),
        (0, 0.0),
        (Colour.RED, Grams(5)),
    ],
)
def test_unusual_valid_counts_are_unchanged(current: float, total: float) -> None:
    """current above total, total 0, floats, huge ints, and subclasses of int and
    float are valid.
    """
    assert validate(current, total, None, None) == (current, total, None, None)


def test_subclasses_of_numbers_become_int_and_float() -> None:
    """Not every serializer knows an IntEnum or numpy's float64."""
    current, total, _, _ = validate(Colour.RED, Grams(5), None, None)
    assert (type(current), type(total)) == (int, float)


def test_minus_zero_is_valid() -> None:
    """-0.0 equals 0."""
    assert validate(-0.0, 1, None, None)[0] == 0


def test_empty_message_and_attributes_are_not_none() -> None:
    """``message=""`` and ``attributes={}`` differ from None."""
    assert validate(1, 2, "", {}) == (1, 2, "", {})
    assert validate(1, 2, None, None) == (1, 2, None, None)


@pytest.mark.parametrize("message", [5, b"text", ["a"], {"a": "b"}], ids=repr)
def test_message_that_is_no_str_raises(message: Any) -> None:
    """A message is a str or None."""
    with pytest.raises(UsageError, match="message must be a str or None"):
        Reporter(None).update(1, 2, message)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ([("a", "b")], "attributes must be a dict of str to str"),
        ("text", "attributes must be a dict of str to str"),
        ({1: "a"}, "keys of type str"),
        ({"a": 1}, r"attributes\['a'\] must be a str, got 1 \(int\); use str\(value\)"),
        ({"a": None}, r"attributes\['a'\] must be a str"),
    ],
)
def test_attributes_other_than_str_to_str_raise(attributes: Any, sentence: str) -> None:
    """Attributes are a dict of str to str."""
    with pytest.raises(UsageError, match=sentence):
        Reporter(None).update(1, 2, None, attributes)


def test_error_names_the_first_invalid_argument() -> None:
    """The order is current, total, message, attributes."""
    for wrong in range(4):
        report: list[Any] = [1, 2, "text", {}]
        for index in range(wrong, 4):
            report[index] = object()
        name = ("current", "total", "message", "attributes")[wrong]
        with pytest.raises(UsageError, match=f"^progress: {name} "):
            validate(*report)


def test_error_shortens_a_huge_value() -> None:
    """A huge invalid value is shortened in the message."""
    with pytest.raises(UsageError) as caught:
        validate("x" * 10_000, 1, None, None)
    assert len(str(caught.value)) < 300


def test_usage_error_is_a_value_error() -> None:
    """Code that catches ValueError for invalid arguments need not know Headway."""
    assert issubclass(UsageError, ValueError)


def test_attributes_are_copied() -> None:
    """The caller may change its dict afterwards: the report is written later."""
    mine = {"a": "1"}
    report = validate(1, 2, None, mine)
    mine["a"] = "2"
    assert report[3] == {"a": "1"}


def test_report_at_the_limits_is_not_truncated() -> None:
    """2 KiB of message and 8 KiB of attributes are kept, to the byte."""
    report = (1, 2, "é" * (MESSAGE_LIMIT // 2), {"k" * 4: "v" * (ATTRIBUTES_LIMIT - 4)})
    assert truncate(report) == (report, False)


@given(st.text(min_size=600, max_size=3000))
def test_message_is_truncated_at_a_character(text: str) -> None:
    """The result is the longest start of the message with at most 2 KiB."""
    long = text + "€" * 1000
    (_, _, short, _), was_cut = truncate((1, 2, long, None))
    assert was_cut
    assert short is not None
    assert long.startswith(short)
    assert MESSAGE_LIMIT - 3 <= len(short.encode()) <= MESSAGE_LIMIT


def test_attributes_are_truncated_in_their_order() -> None:
    """The first value that does not fit is cut, and later pairs are omitted."""
    (_, _, _, few), was_cut = truncate((1, 2, None, {"a": "x" * 5000, "b": "ü" * 5000, "c": "z"}))
    assert was_cut
    assert few is not None
    assert list(few) == ["a", "b"]
    assert (
        sum(len(key.encode()) + len(value.encode()) for key, value in few.items())
        <= ATTRIBUTES_LIMIT
    )
    assert few["b"] == "ü" * ((ATTRIBUTES_LIMIT - 5002) // 2)


def test_lone_surrogates_are_truncated_without_error() -> None:
    """A str that is not valid UTF-8 is measured and cut too."""
    (_, _, short, _), was_cut = truncate((1, 2, "\ud800" * 3000, None))
    assert was_cut
    assert short is not None


def test_meta_has_every_key() -> None:
    """Message and attributes are there as None too. The timestamp is in milliseconds."""
    assert to_meta((1, 2, None, None), 1704067200.0123, None, 3) == {
        "current": 1,
        "total": 2,
        "message": None,
        "attributes": None,
        "timestamp": 1704067200012,
        "rate": None,
        "attempt": 3,
    }
