"""What a right report is, and how a long one is cut (contract, section 1)."""

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
def test_what_is_no_count_is_refused(name: str, value: Any) -> None:
    """bool, str, None, Decimal, NaN, infinities and negatives are a UsageError that names the
    argument.
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
def test_what_is_odd_but_right_is_taken_as_it_is(current: float, total: float) -> None:
    """current above total, total 0, floats, huge ints, and kinds of int and float are accepted."""
    assert validate(current, total, None, None) == (current, total, None, None)


def test_kinds_of_numbers_become_plain_ones() -> None:
    """Not every serializer knows an IntEnum or numpy's float64."""
    current, total, _, _ = validate(Colour.RED, Grams(5), None, None)
    assert (type(current), type(total)) == (int, float)


def test_minus_zero_is_no_negative() -> None:
    """-0.0 equals 0."""
    assert validate(-0.0, 1, None, None)[0] == 0


def test_empty_is_not_none() -> None:
    """``message=""`` and ``attributes={}`` are kept apart from None."""
    assert validate(1, 2, "", {}) == (1, 2, "", {})
    assert validate(1, 2, None, None) == (1, 2, None, None)


@pytest.mark.parametrize("message", [5, b"text", ["a"], {"a": "b"}], ids=repr)
def test_what_is_no_text_is_refused(message: Any) -> None:
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
def test_what_are_no_attributes_is_refused(attributes: Any, sentence: str) -> None:
    """Attributes are a dict of str to str."""
    with pytest.raises(UsageError, match=sentence):
        Reporter(None).update(1, 2, None, attributes)


def test_the_first_wrong_one_is_named() -> None:
    """The order is current, total, message, attributes."""
    for wrong in range(4):
        report: list[Any] = [1, 2, "text", {}]
        for index in range(wrong, 4):
            report[index] = object()
        name = ("current", "total", "message", "attributes")[wrong]
        with pytest.raises(UsageError, match=f"^progress: {name} "):
            validate(*report)


def test_an_error_does_not_repeat_a_book() -> None:
    """A huge wrong value is cut in the sentence."""
    with pytest.raises(UsageError) as caught:
        validate("x" * 10_000, 1, None, None)
    assert len(str(caught.value)) < 300


def test_a_usage_error_is_a_value_error() -> None:
    """So that code which expects ValueError for wrong arguments needn't know Headway."""
    assert issubclass(UsageError, ValueError)


def test_attributes_are_copied() -> None:
    """The caller may go on changing its dict: the report is written later."""
    mine = {"a": "1"}
    report = validate(1, 2, None, mine)
    mine["a"] = "2"
    assert report[3] == {"a": "1"}


def test_what_fits_is_not_cut() -> None:
    """2 KiB of message and 8 KiB of attributes are whole, to the byte."""
    report = (1, 2, "é" * (MESSAGE_LIMIT // 2), {"k" * 4: "v" * (ATTRIBUTES_LIMIT - 4)})
    assert truncate(report) == (report, False)


@given(st.text(min_size=600, max_size=3000))
def test_a_message_is_cut_at_a_character(text: str) -> None:
    """A message is a beginning of what was said, of 2 KiB at most, and as long as it can be."""
    long = text + "€" * 1000
    (_, _, short, _), was_cut = truncate((1, 2, long, None))
    assert was_cut
    assert short is not None
    assert long.startswith(short)
    assert MESSAGE_LIMIT - 3 <= len(short.encode()) <= MESSAGE_LIMIT


def test_attributes_keep_what_fits_in_their_order() -> None:
    """The pair that doesn't fit has its value cut, what comes after it is left out."""
    (_, _, _, few), was_cut = truncate((1, 2, None, {"a": "x" * 5000, "b": "ü" * 5000, "c": "z"}))
    assert was_cut
    assert few is not None
    assert list(few) == ["a", "b"]
    assert (
        sum(len(key.encode()) + len(value.encode()) for key, value in few.items())
        <= ATTRIBUTES_LIMIT
    )
    assert few["b"] == "ü" * ((ATTRIBUTES_LIMIT - 5002) // 2)


def test_lone_surrogates_do_no_harm() -> None:
    """A str that is no UTF-8 is measured and cut all the same."""
    (_, _, short, _), was_cut = truncate((1, 2, "\ud800" * 3000, None))
    assert was_cut
    assert short is not None


def test_the_meta_has_all_keys() -> None:
    """Every key is there, message and attributes as None too; the timestamp is in milliseconds."""
    assert to_meta((1, 2, None, None), 1704067200.0123, None, 3) == {
        "current": 1,
        "total": 2,
        "message": None,
        "attributes": None,
        "timestamp": 1704067200012,
        "rate": None,
        "attempt": 3,
    }
