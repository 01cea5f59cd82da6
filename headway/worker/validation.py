"""One report of a task: its validation, and its form in the result backend."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from headway.errors import UsageError

#: current, total, message, attributes: as reported, validated.
Update = tuple[int | float, int | float, str | None, dict[str, str] | None]

#: Bytes of UTF-8 of a message, at most; the rest is cut off.
MESSAGE_LIMIT = 2 * 1024
#: Bytes of UTF-8 of all keys and values of the attributes, at most; the rest is omitted.
ATTRIBUTES_LIMIT = 8 * 1024


def validate(current: object, total: object, message: object, attributes: object) -> Update:
    """Return the report, or raise ``UsageError`` for the first invalid value."""
    return _number("current", current), _number("total", total), _text(message), _pairs(attributes)


def length_of(iterable: Any) -> int:
    """The number of items; 0 if the iterable does not know it."""
    try:
        return len(iterable)
    except (TypeError, AttributeError):  # no `__len__`, or one that fails
        return 0


def _number(name: str, value: object) -> int | float:
    if (type(value) is int or type(value) is float) and 0 <= value < math.inf:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(
            name,
            value,
            "an int or a float",
            f"pass int({name}) or float({name}) if it is another kind of number",
        )
    # Subclasses of int and float (IntEnum, numpy's float64) are valid, but not every serializer
    # knows them.
    plain: int | float = int(value) if isinstance(value, int) else float(value)
    if not 0 <= plain < math.inf:  # NaN is in no range
        _refuse(
            name,
            value,
            "finite and not negative",
            "for an unknown total pass 0" if name == "total" else "pass what is done so far",
        )
    return plain


def _text(message: object) -> str | None:
    if message is not None and not isinstance(message, str):
        _refuse("message", message, "a str or None", "pass str(message)")
    return message if message is None else str(message)


def _pairs(attributes: object) -> dict[str, str] | None:
    if attributes is None:
        return None
    if not isinstance(attributes, dict):
        _refuse(
            "attributes",
            attributes,
            "a dict of str to str, or None",
            'pass for example {"errors": str(errors)}',
        )
    for key, value in attributes.items():
        if not isinstance(key, str):
            _refuse("attributes", key, "a dict with keys of type str", "use str(key)")
        if not isinstance(value, str):
            _refuse(f"attributes[{key!r}]", value, "a str", "use str(value)")
    return dict(attributes)  # a copy: the caller may change its dict before the write


def _refuse(name: str, value: object, expected: str, fix: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise UsageError(
        f"progress: {name} must be {expected}, got {shown} ({type(value).__name__}); {fix}"
    )


def to_meta(
    report: tuple[float | None, float | None, str | None, dict[str, str] | None],
    timestamp: float | None,
    rate: float | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    """The meta for ``update_state``. ``timestamp`` in seconds since the epoch; stored in
    milliseconds, as in Tensorlake.
    """
    current, total, message, attributes = report
    return {
        "current": current,
        "total": total,
        "message": message,
        "attributes": attributes,
        "timestamp": None if timestamp is None else int(timestamp * 1000),
        "rate": rate,
        "attempt": attempt,
    }


def truncate(report: Update) -> tuple[Update, bool]:
    """The report within the limits, and whether it was cut."""
    current, total, message, attributes = report
    text = message if message is None else _cut(message, MESSAGE_LIMIT)
    pairs = attributes if attributes is None else _cut_pairs(attributes)
    return (current, total, text, pairs), text != message or pairs != attributes


def _cut(text: str, limit: int) -> str:
    if len(text) * 4 <= limit:  # a character has at most 4 bytes
        return text
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore")


def _cut_pairs(attributes: dict[str, str]) -> dict[str, str]:
    """As many pairs as fit, in order. The value of the first that does not fit is cut, or the pair
    is omitted.
    """
    kept: dict[str, str] = {}
    left = ATTRIBUTES_LIMIT
    for key, value in attributes.items():
        left -= len(key.encode("utf-8", "surrogatepass"))
        if left < 0:
            break
        kept[key] = _cut(value, left)
        left -= len(kept[key].encode("utf-8", "surrogatepass"))
        if kept[key] != value:
            break
    return kept
