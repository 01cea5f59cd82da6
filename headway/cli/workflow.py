"""Finds the published members of a workflow among the newest executions, by Celery's ids.

In a chain, each task publishes the next one. Therefore the members are looked up again when all
known ones have ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headway.cli.source import ExecutionSource, Update
from headway.models import Execution, Query

#: Executions to search. An index would cost one more command for each published task, for a rare
#: question.
MAX_SEARCHED = 2000


def follow_workflows(source: ExecutionSource, ids: Sequence[str]) -> Iterator[Update]:
    """Like `ExecutionSource.follow`, for all members of the workflows of ``ids``, also those that
    are published later.
    """
    followed: set[str] = set()
    found = members(source.list(Query(), MAX_SEARCHED), ids)
    while new := [execution_id for execution_id in found if execution_id not in followed]:
        followed.update(new)
        yield from source.follow(new)
        found = members(source.list(Query(), MAX_SEARCHED), followed)


def members(executions: Iterable[Execution], ids: Iterable[str]) -> list[str]:
    """The ids of all executions that share a root or a group with one of ``ids``, oldest first.
    Unknown ids stay in the list.

    An id may be that of a member, of the root or of the group. The callback of a chord has one of
    the chord's members as its root.
    """
    known = list(executions)[::-1]
    requested, links, before = set(ids), set(ids), set[str]()
    found: list[Execution] = []
    while links != before:
        before = links
        found = [execution for execution in known if not links.isdisjoint(_links(execution))]
        links = links.union(*map(_links, found))
    unknown = requested.difference(*map(_links, found))
    return [execution.execution_id for execution in found] + sorted(unknown)


def _links(execution: Execution) -> set[str]:
    ids = (execution.execution_id, execution.root_id, execution.group_id)
    return {each for each in ids if each is not None}
