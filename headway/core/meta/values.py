"""The numbers, measures and times that `core.meta` reads from single values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, TypeGuard

from headway.models import Progress

MAX_KEYS = 200  # keys that are read in one dict
MAX_TEXT = 2048  # characters of a message, and of a text that is parsed

MAX_COUNT = 10**18  # a larger number is no count, and sums of it could exceed the range of a float

Number = int | float

NUMBER_TEXT = re.compile(r"\d{1,15}(?:[.,]\d{1,15})?")
NUM = r"(\d{1,3}(?:[ ,]\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?)"
ONE_NUMBER = re.compile(rf"{NUM}\s*(%|percent|prozent|por ciento)?")
TWO_NUMBERS = re.compile(
    rf"{NUM}\s*(?:/|\\|of|out of|von|de|sur|di|из)\s*{NUM}(?:\s+[^\W\d]{{1,20}})?", re.I
)
STARTS_WITH_PERCENT = re.compile(rf"{NUM}\s*%")
PROSE_PAIR = re.compile(
    r"(?<![\w/.,:-])(\d{1,9}) ?(?:/|of|out of|von|sur) ?(\d{1,9})(?![/.,:-]?\w)", re.I
)
PROSE_PERCENT = re.compile(
    r"(?<![\w.,-])(\d{1,3}(?:\.\d{1,4})?) ?%|percent complete:? (\d{1,3}(?:\.\d{1,4})?)(?![\w%])",
    re.I,
)
#: Texts with one of these words have numbers of something else.
NOT_A_PAIR = re.compile(r"\b(?:attempt|retry|retrying|try|tries|worker|shard|score|rated)\b", re.I)
NOT_A_PERCENT = re.compile(
    r"\b(?:cpu|memory|ram|disk|gpu|usage|used|rate|accuracy|confidence|discount|threshold|battery|"
    r"quality|similarity|match|success\w*|humidity|loss|failed|errors?|off)\b",
    re.I,
)
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_EPOCH_MS = 250e12  # the largest time of a datetime, in milliseconds


@dataclass(slots=True)
class Reading:
    """The progress that was found in a payload so far."""

    current: Number | None = None
    total: Number | None = None
    #: Possible percentages, the likeliest first. 0.5 is half, or half a percent if the counts
    #: agree.
    percents: tuple[float, ...] = ()
    message: str | None = None
    timestamp: datetime | None = None
    attributes: dict[str, str] | None = None

    @property
    def has_fraction(self) -> bool:
        return bool(self.percents) or (self.current is not None and bool(self.total))

    def progress(self) -> Progress | None:
        current, total = self.current, self.total
        if self.percents:
            counted = min(100.0, current / total * 100) if current is not None and total else None
            # Counts within one percent of the percentage are the same number, but not rounded.
            if counted is None or not any(
                abs(counted - percent) <= 1.0 for percent in self.percents
            ):
                current, total = simplify(min(self.percents[0], 100.0)), 100
        if current is None and total is None and self.message is None:
            return None
        return Progress(current, total, self.message, self.attributes, self.timestamp)


def with_prose(reading: Reading) -> Reading:
    """The last resort: a message such as "Row 3/10" or "40 %", in a payload without any count. It
    must have one such number, and about the work itself.
    """
    text = reading.message
    has_numbers = reading.current is not None or reading.total is not None or bool(reading.percents)
    if not text or has_numbers:
        return reading
    pairs = PROSE_PAIR.findall(text) if not NOT_A_PAIR.search(text) else []
    percents = PROSE_PERCENT.findall(text) if not NOT_A_PERCENT.search(text) else []
    if len(pairs) > 1 or len(percents) > 1:
        return reading
    percent = float(percents[0][0] or percents[0][1]) if percents else None
    pair = (int(pairs[0][0]), int(pairs[0][1])) if pairs else None
    if pair is not None and pair[0] <= 12 and 1900 <= pair[1] <= 2100:
        return reading  # a month and a year
    if (
        pair is not None
        and 0 < pair[1] >= pair[0]
        and (percent is None or abs(pair[0] / pair[1] * 100 - percent) <= 1)
    ):
        reading.current, reading.total = pair
    elif percent is not None and pair is None and percent <= 100:
        reading.percents = (percent,)
    return reading


def measure_in(text: str) -> Reading | None:
    """Read "45 %", "12/30" or "40% done": a text that is, or starts with, a measure of progress."""
    if len(text) > 200:
        return None
    if match := ONE_NUMBER.fullmatch(text):
        value = simplify(parse_number(match[1]))
        return Reading(
            percents=((float(value),) if value <= 110 else ()) if match[2] else percents_of(value)
        )
    if (match := TWO_NUMBERS.fullmatch(text)) and (
        pair := pair_in((parse_number(match[1]), parse_number(match[2])))
    ):
        return pair
    if (
        (match := STARTS_WITH_PERCENT.match(text))
        and not NOT_A_PERCENT.search(text)
        and parse_number(match[1]) <= 100
    ):
        return Reading(percents=(parse_number(match[1]),), message=text)
    return None


def number_in(value: object) -> Number | None:
    """A finite number that isn't negative, also written as text. A bool is no number."""
    kind = type(value)
    if issubclass(kind, bool):
        return None
    if issubclass(kind, str):
        text = clean(value) if len(value) <= 40 else ""  # type: ignore[arg-type]
        if not NUMBER_TEXT.fullmatch(text):
            return None
        return float(text) if "." in text else simplify(parse_number(text))
    if isinstance(value, Decimal):
        value = float(value) if value.is_finite() else None
    return value if is_number(value) and value <= MAX_COUNT else None


def is_number(value: object) -> TypeGuard[Number]:
    """Whether it may be a count: finite, at least 0, and within the range of a float."""
    kind = type(value)
    if kind is float or (kind is int and value < MAX_COUNT):  # type: ignore[operator]
        return 0 <= value < math.inf  # type: ignore[operator]  # NaN is in no range
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:
        return False


def is_str_dict(value: object) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(
        type(key) is str and type(item) is str for key, item in islice(value.items(), MAX_KEYS)
    )


def percents_of(number: Number) -> tuple[float, ...]:
    """The percentages that a number may mean, the likeliest first. A float within 0..1 is a
    fraction, an int never is.
    """
    if isinstance(number, float) and 0 < number <= 1:
        return (number * 100.0, number)
    return (float(number),) if number <= 110 else ()


def simplify(number: float) -> Number:
    """30 for 30.0, 28.57 for 28.570000000000004: as a person writes it."""
    rounded = round(number, 9)
    return int(rounded) if rounded == int(rounded) else rounded


def parse_number(text: str) -> float:
    """Parse "1,234" as 1234, and "12,5" as 12.5."""
    thousands = re.fullmatch(r"\d{1,3}(?:[ ,]\d{3})+(?:\.\d+)?", text)
    return float(re.sub(r"[ ,]", "", text) if thousands else text.replace(",", "."))


def pair_in(items: Sequence[Any]) -> Reading | None:
    """Read [12, 30] as 12 of 30."""
    if len(items) != 2:
        return None
    current, total = number_in(items[0]), number_in(items[1])
    if current is None or not total or current > total:
        return None
    return Reading(simplify(current), simplify(total))


def parse_time(value: object) -> datetime | None:
    """Parse milliseconds or seconds since the epoch, or ISO 8601 with an offset."""
    if isinstance(value, str) and len(value) <= 40:
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            return None
        return time.astimezone(UTC) if time.tzinfo is not None else None
    if not is_number(value) or value > MAX_EPOCH_MS:
        return None
    return EPOCH + timedelta(milliseconds=value if value > 1e11 else value * 1000)


def clean(text: str) -> str:
    """Strip terminal colours and outer spaces, and cut to ``MAX_TEXT`` characters."""
    return ANSI.sub("", str.__str__(text)[: MAX_TEXT * 2]).strip()[:MAX_TEXT]
