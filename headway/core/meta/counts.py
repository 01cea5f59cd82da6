"""The fraction in the numbers of one dict: first the roles of the keys, then the pair that matches
best, then percentages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from headway.core.meta.values import (
    Number,
    Reading,
    clean,
    measure_in,
    number_in,
    pair_in,
    percents_of,
)
from headway.core.meta.vocabulary import (
    CONTAINER,
    CORE,
    CURRENT,
    DONE,
    EXTENT,
    FAILURE_WORDS,
    FRACTION,
    INDEX,
    LEFT,
    NO_NOUN,
    NO_NUMBER,
    ORDINAL,
    OVERALL,
    PERCENT,
    PROGRESS,
    STEP,
    SUCCESS_WORDS,
    TOTAL,
    UNITS,
    is_past_participle,
    stem,
)

#: With one of these keys, "page" is the position in a listing and no progress.
PAGINATION = {("per", "page"), ("page", "size")}
#: Under these keys the text "45 %" is progress. Under other keys it may be a humidity.
MEASURED = CONTAINER | STEP | {"value", "per"}


@dataclass(frozen=True, slots=True)
class _Count:
    """A number with a role: completed units, or all units."""

    value: Number
    #: What is counted, in the singular. Empty: nothing in particular.
    nouns: frozenset[str]
    #: How certain the role is, 0 is best. Completed units: 0 a core word, 1 another word for
    #: finished work, 2 an index, 3 a bare unit ("page": 3). All units: 0 a total, 1 an estimate or
    #: a maximum, 2 an extent ("page_count", "pages").
    rank: int
    key: tuple[str, ...]


@dataclass(slots=True)
class _Counts:
    done: list[_Count] = field(default_factory=list)
    total: list[_Count] = field(default_factory=list)
    left: list[_Count] = field(default_factory=list)
    succeeded: list[_Count] = field(default_factory=list)
    failed: list[_Count] = field(default_factory=list)
    #: "progress" alone: a percentage, or a count if there is a total.
    bare: list[Number] = field(default_factory=list)
    #: (rank, percentages). Rank 0 is for the whole, a higher one for a part.
    percents: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    #: A single number as text was formatted for people: a percentage.
    formatted: tuple[float, ...] = ()


def fraction_of(items: Iterable[tuple[tuple[str, ...], Any]], *, strict: bool) -> Reading:
    """Read the numbers of one dict, whose keys are split into words. ``strict``: only unmistakable
    progress.
    """
    counts = _Counts()
    items = list(items)
    paged = any(tokens in PAGINATION for tokens, _ in items)
    for tokens, value in items:
        if not (paged and "page" in tokens):  # a listing's own page number
            _add(counts, tokens, value)
    return _best_reading(counts, strict=strict)


def _add(counts: _Counts, tokens: tuple[str, ...], value: object) -> None:
    """Add the number of one key under its role."""
    words = frozenset(tokens)
    if not words or words & NO_NUMBER:
        return
    number = number_in(value)
    if number is None:
        _add_text(counts, tokens, words, value)
    elif words & (PERCENT | FRACTION) or (words & PROGRESS and tokens[-1] not in TOTAL | CORE):
        _add_percent(counts, words, number)
    elif words & FAILURE_WORDS:
        counts.failed.append(_Count(number, frozenset(), 0, tokens))
    elif words & SUCCESS_WORDS and not words & DONE:
        counts.succeeded.append(_Count(number, frozenset(), 0, tokens))
    else:
        _add_count(counts, tokens, words, number)
        if words <= CURRENT | DONE and issubclass(type(value), str):
            counts.formatted = percents_of(number)


def _add_text(
    counts: _Counts, tokens: tuple[str, ...], words: frozenset[str], value: object
) -> None:
    """Add formatted numbers: "12/30", "45 %", [12, 30]."""
    if words & (FAILURE_WORDS | SUCCESS_WORDS):
        return
    counting = bool(words & (PROGRESS | PERCENT | CURRENT | DONE)) or words <= UNITS
    if isinstance(value, str):
        found = measure_in(clean(value))
    else:
        found = pair_in(value) if isinstance(value, (list, tuple)) and words & PROGRESS else None
    if found is None:
        return
    if found.percents and (counting or (found.message is None and words & MEASURED)):
        counts.percents.append((_percent_rank(words) + (0 if counting else 5), found.percents))
    elif found.current is not None and found.total is not None and counting:
        counts.done.append(_Count(found.current, frozenset(), 0, tokens))
        counts.total.append(_Count(found.total, frozenset(), 0, ()))


def _add_percent(counts: _Counts, words: frozenset[str], number: Number) -> None:
    if words & (FAILURE_WORDS | SUCCESS_WORDS):
        return  # "success_percentage"
    if words & FRACTION:
        plain = words <= FRACTION | PROGRESS | DONE | OVERALL and words != {"ratio"}
        if plain and number <= 1:
            counts.percents.append((_percent_rank(words), (number * 100.0,)))
    elif words <= PROGRESS:
        counts.bare.append(number)
    elif percents := percents_of(number):
        counts.percents.append((_percent_rank(words), percents))


def _percent_rank(words: frozenset[str]) -> int:
    return 0 if words <= PERCENT | PROGRESS | FRACTION | OVERALL | DONE else 3


def _add_count(
    counts: _Counts, tokens: tuple[str, ...], words: frozenset[str], number: Number
) -> None:
    nouns = frozenset(stem(word) for word in words - NO_NOUN if not is_past_participle(word))
    if words & DONE or any(map(is_past_participle, words)) or words & CURRENT:
        counts.done.append(_Count(number, nouns, 0 if words & CORE else 1, tokens))
    elif words & LEFT:
        if isinstance(number, int):  # a float is a number of seconds
            counts.left.append(_Count(number, nouns, 0, tokens))
    elif words & TOTAL:
        counts.total.append(
            _Count(number, nouns, 1 if words & {"estimate", "max", "maximum"} else 0, tokens)
        )
    elif (
        words <= INDEX
        or (words & INDEX and tokens[0] != "n" and tokens[-1] != "count")
        or (nouns and tokens[-1] in ORDINAL)
    ):
        counts.done.append(_Count(number, nouns, 2, tokens))
        if words <= EXTENT:
            counts.total.append(_Count(number, nouns, 2, tokens))
    elif words & EXTENT:
        counts.total.append(_Count(number, nouns, 2, tokens))
    elif nouns <= UNITS and len(nouns) == 1:
        plural = tokens[-1] not in nouns
        (counts.total if plural else counts.done).append(
            _Count(number, nouns, 2 if plural else 3, tokens)
        )


def _best_reading(counts: _Counts, *, strict: bool) -> Reading:
    """The best fraction in the counts and percentages of one dict."""
    pair = _best_pair(counts, strict=strict)
    total = next((t for t in counts.total if not t.nouns and t.rank == 0), None)
    if pair is None and total is not None:
        pair = _sum_of(counts, total)
    percents = [*counts.percents]
    for number in counts.bare:
        if (
            pair is None
            and total is not None
            and number <= total.value
            and not (isinstance(number, float) and 0 < number < 1)
        ):
            pair = (number, total.value)
        elif (pair is None or number != pair[0]) and (candidates := percents_of(number)):
            percents.append((1, candidates))
    if pair is None:
        pair = _done_and_left(counts)
    best = min(percents, key=lambda ranked: ranked[0])[1] if percents else ()
    if pair is not None:
        return Reading(*pair, percents=best)
    if best or strict:
        return Reading(percents=best)
    done = min(counts.done, key=lambda count: (count.rank, len(count.nouns)), default=None)
    if done is None:
        return Reading(total=total.value if total is not None else None)
    # A count and a total of different things are no fraction. Use only the count.
    return Reading(current=done.value, percents=counts.formatted if total is None else ())


def _best_pair(counts: _Counts, *, strict: bool) -> tuple[Number, Number] | None:
    done, totals = counts.done[:20], counts.total[:20]
    if strict:
        done, totals = [d for d in done if d.rank == 0], [t for t in totals if t.rank == 0]
    ranked = [
        (cost, -d.value, -t.value)
        for d in done
        for t in totals
        if d.key != t.key and (cost := _mismatch(d, t)) is not None
    ]
    if not ranked:
        return None
    _, current, total = min(ranked)
    return -current, -total


def _mismatch(done: _Count, total: _Count) -> int | None:
    """How badly the two match, 0 is best. None: they don't."""
    certain = done.rank == 0 and total.rank == 0
    if not certain and done.value > total.value:
        return None
    if done.nouns & total.nouns:
        return 10 + done.rank * 2 + total.rank
    if done.nouns and total.nouns:
        return None
    if not done.nouns and not total.nouns:
        return done.rank + total.rank
    # "max_results" and "match_count" match only a count of that noun. But "current" and "num_files"
    # are the usual names in a loop.
    if total.rank:
        return (
            30
            if done.rank == 0
            and total.rank == 2
            and not done.nouns
            and total.key[0] in ORDINAL | {"n", "nb"}
            else None
        )
    return 20 + done.rank  # "processed_rows" of "total", "done" of "total_files"


def _sum_of(counts: _Counts, total: _Count) -> tuple[Number, Number] | None:
    """Completed units from the remaining ones, or from results ("success", "failed")."""
    left = next((count for count in counts.left if not count.nouns), None)
    if left is not None and left.value <= total.value:
        return total.value - left.value, total.value
    ended = sum(count.value for count in (*counts.succeeded, *counts.failed))
    return (
        (ended, total.value)
        if counts.succeeded and not counts.done and ended <= total.value
        else None
    )


def _done_and_left(counts: _Counts) -> tuple[Number, Number] | None:
    for left in counts.left:
        for done in counts.done:
            if done.rank == 0 and done.nouns == left.nouns:
                return done.value, done.value + left.value
    return None
