"""Any progress meta found in the wild -> Progress.

Tasks that never heard of Headway store whatever their authors thought of: counts, percentages,
fractions, texts, in several languages and under a thousand names. The rules here are about words
and shapes, not about particular programs:

1. A key is split into its words (``totalFiles``, ``total-files``, ``Total files`` are the same),
   which give the key its role.
2. A count and a total make a fraction if they speak of the same thing: both of nothing in
   particular (``done``/``total``), of the same noun (``pages_crawled``/``total_pages``), or one of
   a noun and one general.
3. A given percentage wins over counts that disagree with it: counts may be of one stage, the
   percentage was meant for a bar.
4. Numbers whose key names something else (ids, times, sizes, errors, settings) are never progress.
   **No percentage is better than a wrong one**: a bar that lies is the worst that this module can
   do, so whatever isn't known stays out.
5. Of several texts the one that was written for people wins: messages, then what is going on now,
   then names, then errors (in a failure: errors before names).

The vocabulary is in `meta_words`, single values are read in `meta_values`, the numbers of a dict in
`meta_counts`. Pure, total (no object makes it raise) and bounded (`MAX_KEYS`, `MAX_TEXT`,
`MAX_DEPTH`, `MAX_DICTS`).
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
    percents_of,
    time_of,
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

Entry = tuple[tuple[str, ...], Any]

MAX_KEY = 64  # characters of a key
MAX_DEPTH = 3  # dicts within dicts
MAX_DICTS = 40  # that are read in one payload

OWN_KEYS = frozenset({"current", "total", "message", "attributes", "timestamp", "rate", "attempt"})
REQUIRED_KEYS = frozenset({"current", "total"})
MARKER_KEYS = frozenset({"attempt", "attributes", "timestamp"})  # of which at least one is there


def progress_from_meta(state: str | None, meta: object) -> Progress | None:
    """Read what a task stored: ``state`` and ``meta`` as in ``update_state``, or as the result
    backend gives them.

    None where it says nothing. What it says is in the payload's own units; where only a percentage
    is given, ``total`` is 100. Never raises.
    """
    try:
        own = _own(meta) if isinstance(meta, dict) else None
        if own is not None:
            return own
        reading = _read(_Context(state if isinstance(state, str) else ""), meta, 0)
        return reading.progress() if reading is not None else None
    except Exception:  # noqa: BLE001 - objects with a mind of their own (pickled results): their methods may raise anything
        return None


@dataclass(slots=True)
class _Context:
    """What the state says about the payload, and how much may still be read of it."""

    state: str
    dicts_left: int = MAX_DICTS

    @property
    def succeeded(self) -> bool:
        """The payload may be a task's result: only what is plainly progress is read."""
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
    # A bare float is a percentage or a fraction; a bare int may as well be a count.
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
    return measure_in(text) or _said(context, Reading(message=text))


def _from_list(context: _Context, items: list[Any] | tuple[Any, ...], depth: int) -> Reading | None:
    if (pair := pair_in(items)) is not None:
        return pair
    if not items or depth >= MAX_DEPTH or not isinstance(items[-1], (dict, str)):
        return None
    return _read(context, items[-1], depth + 1)  # a log: the last one is the newest


def _parsed(text: str) -> dict[Any, Any] | None:
    """A dict that somebody turned into a string, as JSON or as Python prints it."""
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
    """Headway's own payload, to be given back exactly (``message=""`` and a total of 0 included).

    On the way of every update to every viewer, so in plain steps.
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
        current, total, message, attributes, None if stamp is None else time_of(stamp), rate
    )


# --- dicts: roles of keys, then the best fraction and the best text ---


def _from_dict(context: _Context, payload: dict[Any, Any], depth: int) -> Reading:
    context.dicts_left -= 1
    if context.dicts_left < 0:
        return Reading()
    entries = _entries(payload)
    reading = fraction_of(entries, strict=context.succeeded)
    for tokens, value in entries:
        if tokens == ("timestamp",):
            reading.timestamp = time_of(value)
        elif tokens == ("attributes",) and is_str_dict(value):
            reading.attributes = value
    if not reading.tells_fraction and depth < MAX_DEPTH:
        _look_inside(context, reading, entries, depth)
    reading.message = _best_text(context, entries, depth)
    return _said(context, reading)


def _entries(payload: dict[Any, Any]) -> list[Entry]:
    items = islice(payload.items(), MAX_KEYS)
    return [
        (tokens_of(key), value) for key, value in items if type(key) is str and len(key) <= MAX_KEY
    ]


def _said(context: _Context, reading: Reading) -> Reading:
    """Numbers in prose, where the prose is of work that goes on: "row 3/10 is broken" is none."""
    return reading if context.succeeded or context.failing else with_prose(reading)


def _look_inside(context: _Context, reading: Reading, entries: list[Entry], depth: int) -> None:
    """A payload within the payload, where the outer one tells no fraction: the first that does,
    those named progress first.
    """
    for tokens, value in sorted(entries, key=lambda entry: not PROGRESS & set(entry[0])):
        inner = value[-1] if isinstance(value, (list, tuple)) and value else value
        if not CONTAINER & set(tokens) or NO_TEXT & set(tokens) or not isinstance(inner, dict):
            continue
        found = _read(context, inner, depth + 1)
        if found is not None and (
            found.tells_fraction or (reading.current is None and reading.total is None)
        ):
            reading.current, reading.total, reading.percents = (
                found.current,
                found.total,
                found.percents,
            )
        if reading.tells_fraction:
            return


# --- texts ---


def _best_text(context: _Context, entries: list[Entry], depth: int) -> str | None:
    best: tuple[tuple[float, ...], str] | None = None
    for position, (tokens, value) in enumerate(entries):
        group = _text_group(context, frozenset(tokens))
        if group is None:
            continue
        text = _text_in(context, value, tokens, depth)
        if not text or _says_nothing(context, text):
            continue
        if group == 2 and text.lower() in GENERIC:
            group = 3.5
        prose = 0 if " " in text or group not in (2, 3.5) else 1
        rank = (
            9 if text in CELERY or _measure(text) else group,
            prose,
            not set(tokens) & STATUS,
            len(tokens),
            position,
        )
        if best is None or rank < best[0]:
            best = rank, text
    return best[1] if best is not None else None


def _text_group(context: _Context, words: frozenset[str]) -> float | None:
    """The lower the better. None: no text for people."""
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
        return text if MESSAGE & set(tokens) or not _measure(text) else None
    if isinstance(value, dict) and depth < MAX_DEPTH and context.dicts_left > 0:
        context.dicts_left -= 1
        return _best_text(context, _entries(value), depth + 1)
    return None


def _measure(text: str) -> bool:
    """ "12/30" or "45 %", and nothing more."""
    found = measure_in(text)
    return found is not None and found.message is None


def _says_nothing(context: _Context, text: str) -> bool:
    """Celery's word for the state, an address, a number."""
    return (
        (text == context.state and text in CELERY)
        or "://" in text[:12]
        or number_in(text) is not None
    )
