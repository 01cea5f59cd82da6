"""One report of a task: what is a right one, and how it looks in the result backend."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from headway.errors import UsageError

#: current, total, message, attributes: as the task said them, checked.
Update = tuple[int | float, int | float, str | None, dict[str, str] | None]

#: Bytes of UTF-8 that a message may have; the rest is cut off.
MESSAGE_LIMIT = 2 * 1024
#: Bytes of UTF-8 that all keys and values of the attributes may have together; the rest is left
#: out.
ATTRIBUTES_LIMIT = 8 * 1024


def validate(current: object, total: object, message: object, attributes: object) -> Update:
    """The report, if it is a right one; else ``UsageError``, for the first of the four that is
    wrong (contract, section 1).
    """
    return _number("current", current), _number("total", total), _text(message), _pairs(attributes)


def length_of(iterable: Any) -> int:
    """How many items there will be; 0 where the iterable doesn't know."""
    try:
        return len(iterable)
    except (TypeError, AttributeError):  # none, or one that the object only pretends to have
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
    # Kinds of int and float (an IntEnum, numpy's float64) are right, but not every serializer knows
    # them.
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
    return dict(attributes)  # the caller may go on changing its own, and it is written later


def _refuse(name: str, value: object, wanted: str, instead: str) -> NoReturn:
    told = repr(value)
    told = told if len(told) <= 60 else told[:57] + "..."
    raise UsageError(
        f"progress: {name} must be {wanted}, got {told} ({type(value).__name__}); {instead}"
    )


def to_meta(report: Update, timestamp: float, rate: float | None, attempt: int) -> dict[str, Any]:
    """What goes to ``update_state(meta=...)``. ``timestamp`` in seconds since the epoch; stored in
    milliseconds, as Tensorlake has it.
    """
    current, total, message, attributes = report
    return {
        "current": current,
        "total": total,
        "message": message,
        "attributes": attributes,
        "timestamp": int(timestamp * 1000),
        "rate": rate,
        "attempt": attempt,
    }


def truncate(report: Update) -> tuple[Update, bool]:
    """The report within the limits, and whether something had to be cut."""
    current, total, message, attributes = report
    short = message if message is None else _cut(message, MESSAGE_LIMIT)
    few = attributes if attributes is None else _cut_pairs(attributes)
    return (current, total, short, few), short != message or few != attributes


def _cut(text: str, limit: int) -> str:
    if len(text) * 4 <= limit:  # a character has at most four bytes
        return text
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore")


def _cut_pairs(attributes: dict[str, str]) -> dict[str, str]:
    """As many pairs as fit, in their order; the one that doesn't fit any more has its value cut, or
    is left out.
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
