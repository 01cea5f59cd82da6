"""Read progress from any meta that Celery tasks store.

Tasks without Headway store counts, percentages, fractions and texts, in several languages and under
many names. The rules are about words and shapes, not about particular programs:

1. A key is split into its words (``totalFiles``, ``total-files`` and ``Total files`` are the same).
   The words give the key its role.
2. A count and a total are a fraction if they match: both without a noun (``done``/``total``), both
   with the same noun (``pages_crawled``/``total_pages``), or one with a noun and one without.
3. A percentage wins over counts that disagree with it. Counts may be those of one stage, but a
   percentage was made for a bar.
4. Numbers under other keys (ids, times, sizes, errors, settings) are never progress. **No
   percentage is better than a wrong one**, so an unknown number is ignored.
5. The text that was written for people wins: first messages, then the current step, then names,
   then errors. In a failure errors come before names.

`vocabulary` has the words, `values` reads single values, `counts` the numbers of a dict. The
functions are pure, never raise, and are bounded (`MAX_KEYS`, `MAX_TEXT`, `MAX_DEPTH`, `MAX_DICTS`).
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from itertools import islice
from typing import Any

from headway.core.meta.counts import fraction_of
from headway.core.meta.values import (
    MAX_KEYS,
    MAX_TEXT,
    Reading,
    clean,
    is_number,
    is_str_dict,
    measure_in,
    number_in,
    pair_in,
    parse_time,
    percents_of,
    with_prose,
)
from headway.core.meta.vocabulary import (
    CELERY,
    CONTAINER,
    CURRENT,
    ERROR,
    FAILING,
    GENERIC,
    INFO,
    MESSAGE,
    NO_TEXT,
    PROGRESS,
    STATUS,
    STEP,
    UNITS,
    tokens_of,
)
from headway.models import Progress

#: The words of a key, and its value.
MetaItem = tuple[tuple[str, ...], Any]

MAX_KEY = 64  # characters of a key
MAX_DEPTH = 3  # dicts within dicts
MAX_DICTS = 40  # dicts in one payload

OWN_KEYS = frozenset({"current", "total", "message", "attributes", "timestamp", "rate", "attempt"})
REQUIRED_KEYS = frozenset({"current", "total"})
MARKER_KEYS = frozenset({"attempt", "attributes", "timestamp"})  # at least one of them is there


def progress_from_meta(state: str | None, meta: object) -> Progress | None:
    """The progress in ``meta``, which has the shape of ``update_state``'s or the result backend's.

    None if it has none. Counts are in the payload's own units. If it has only a percentage,
    ``total`` is 100. Never raises.
    """
    try:
        own = _own(meta) if isinstance(meta, dict) else None
        if own is not None:
            return own
        reading = _read(_Context(state if isinstance(state, str) else ""), meta, 0)
        return reading.progress() if reading is not None else None
    except Exception:  # noqa: BLE001 (methods of a pickled result may raise anything)
        return None


@dataclass(slots=True)
class _Context:
    """The state of the payload, and how many more dicts may be read."""

    state: str
    dicts_left: int = MAX_DICTS

    @property
    def succeeded(self) -> bool:
        """Whether the payload may be a result, in which only unmistakable progress is read."""
        return self.state == "SUCCESS"

    @property
    def failing(self) -> bool:
        return self.state.upper() in FAILING


# --- payloads by shape ---


def _read(context: _Context, meta: object, depth: int) -> Reading | None:
    if isinstance(meta, dict):
        return _from_dict(context, meta, depth)
    if isinstance(meta, str):
        return _from_text(context, meta, depth)
    if context.succeeded:
        return None  # a result
    if isinstance(meta, (list, tuple)):
        return _from_list(context, meta, depth)
    number = number_in(meta)
    if number is None:
        return None
    # A single float is a percentage or a fraction. A single int may also be a count.
    return (
        Reading(percents=percents_of(number))
        if isinstance(number, float)
        else Reading(current=number)
    )


def _from_text(context: _Context, raw: str, depth: int) -> Reading | None:
    text = clean(raw)
    inner = _parsed(text) if depth < MAX_DEPTH else None
    if inner is not None:
        return _read(context, inner, depth + 1)
    if context.succeeded or not text:
        return None
    return measure_in(text) or _with_prose_numbers(context, Reading(message=text))


def _from_list(context: _Context, items: list[Any] | tuple[Any, ...], depth: int) -> Reading | None:
    if (pair := pair_in(items)) is not None:
        return pair
    if not items or depth >= MAX_DEPTH or not isinstance(items[-1], (dict, str)):
        return None
    return _read(context, items[-1], depth + 1)  # a log: the last item is the newest


def _parsed(text: str) -> dict[Any, Any] | None:
    """Parse a dict that was stored as JSON or as its ``repr``."""
    if not (text.startswith("{") and text.endswith("}") and len(text) < MAX_TEXT):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _own(meta: dict[Any, Any]) -> Progress | None:
    """Read Headway's own payload exactly (``message=""`` and a total of 0 included).

    This runs for each update on its way to each viewer, so the steps are simple and fast.
    """
    names = meta.keys()
    if not (REQUIRED_KEYS <= names <= OWN_KEYS) or MARKER_KEYS.isdisjoint(names):
        return None
    current, total, rate, stamp = (
        meta["current"],
        meta["total"],
        meta.get("rate"),
        meta.get("timestamp"),
    )
    message, attributes = meta.get("message"), meta.get("attributes")
    if not is_number(current) or not (total is None or is_number(total)):
        return None
    if not (rate is None or is_number(rate)) or not (stamp is None or is_number(stamp)):
        return None
    if not (message is None or type(message) is str) or not (
        attributes is None or is_str_dict(attributes)
    ):
        return None
    return Progress(
        current, total, message, attributes, None if stamp is None else parse_time(stamp), rate
    )


# --- dicts: the roles of the keys, then the best fraction and the best text ---


def _from_dict(context: _Context, payload: dict[Any, Any], depth: int) -> Reading:
    context.dicts_left -= 1
    if context.dicts_left < 0:
        return Reading()
    items = _items(payload)
    reading = fraction_of(items, strict=context.succeeded)
    for tokens, value in items:
        if tokens == ("timestamp",):
            reading.timestamp = parse_time(value)
        elif tokens == ("attributes",) and is_str_dict(value):
            reading.attributes = value
    if not reading.has_fraction and depth < MAX_DEPTH:
        _read_nested(context, reading, items, depth)
    reading.message = _best_text(context, items, depth)
    return _with_prose_numbers(context, reading)


def _items(payload: dict[Any, Any]) -> list[MetaItem]:
    first = islice(payload.items(), MAX_KEYS)
    return [
        (tokens_of(key), value) for key, value in first if type(key) is str and len(key) <= MAX_KEY
    ]


def _with_prose_numbers(context: _Context, reading: Reading) -> Reading:
    """Read numbers in the message, but not in a failure: "row 3/10 is broken" is no progress."""
    return reading if context.succeeded or context.failing else with_prose(reading)


def _read_nested(context: _Context, reading: Reading, items: list[MetaItem], depth: int) -> None:
    """Use the first nested payload with a fraction. Keys named "progress" come first."""
    for tokens, value in sorted(items, key=lambda item: not PROGRESS & set(item[0])):
        inner = value[-1] if isinstance(value, (list, tuple)) and value else value
        if not CONTAINER & set(tokens) or NO_TEXT & set(tokens) or not isinstance(inner, dict):
            continue
        found = _read(context, inner, depth + 1)
        if found is not None and (
            found.has_fraction or (reading.current is None and reading.total is None)
        ):
            reading.current, reading.total, reading.percents = (
                found.current,
                found.total,
                found.percents,
            )
        if reading.has_fraction:
            return


# --- texts ---


def _best_text(context: _Context, items: list[MetaItem], depth: int) -> str | None:
    best: tuple[tuple[float, ...], str] | None = None
    for position, (tokens, value) in enumerate(items):
        group = _text_group(context, frozenset(tokens))
        if group is None:
            continue
        text = _text_in(context, value, tokens, depth)
        if not text or _is_no_text(context, text):
            continue
        if group == 2 and text.lower() in GENERIC:
            group = 3.5
        prose = 0 if " " in text or group not in (2, 3.5) else 1
        rank = (
            9 if text in CELERY or _is_measure(text) else group,
            prose,
            not set(tokens) & STATUS,
            len(tokens),
            position,
        )
        if best is None or rank < best[0]:
            best = rank, text
    return best[1] if best is not None else None


def _text_group(context: _Context, words: frozenset[str]) -> float | None:
    """The rank of a text, 0 is best. None: no text for people."""
    if words & NO_TEXT:
        return None
    if words & ERROR:
        return 1 if context.failing else 6
    if words & (MESSAGE | PROGRESS):
        return 0
    if words & (STATUS | STEP):
        return 2
    if words & (CURRENT | {"value"}):
        return 3
    return (
        4
        if words & INFO or words <= UNITS
        else 5
        if words & {"data", "meta", "payload", "update", "job"}
        else None
    )


def _text_in(context: _Context, value: object, tokens: tuple[str, ...], depth: int) -> str | None:
    if isinstance(value, (list, tuple)) and value:
        if "exc" in tokens:  # an exception's args
            return clean(", ".join(clean(part) for part in value[:10] if isinstance(part, str)))
        value = value[-1]  # a log: the last line is the newest
    if isinstance(value, str):
        text = clean(value)
        return text if MESSAGE & set(tokens) or not _is_measure(text) else None
    if isinstance(value, dict) and depth < MAX_DEPTH and context.dicts_left > 0:
        context.dicts_left -= 1
        return _best_text(context, _items(value), depth + 1)
    return None


def _is_measure(text: str) -> bool:
    """Whether the text is only a measure, such as "12/30" or "45 %"."""
    found = measure_in(text)
    return found is not None and found.message is None


def _is_no_text(context: _Context, text: str) -> bool:
    """Whether the text is Celery's own state, an address or a number."""
    return (
        (text == context.state and text in CELERY)
        or "://" in text[:12]
        or number_in(text) is not None
    )
