"""The members of a workflow, as far as they are published: found among the newest executions by
Celery's ids.

A chain's next task is published by the one before it: who follows a workflow looks again when what
is known has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headway.cli.source import ExecutionSource, Update
from headway.models import Execution, Query

#: Executions that are looked through. An index would cost each publication a command, for a
#: question that few ask.
NEWEST = 2000


def follow_workflows(source: ExecutionSource, ids: Sequence[str]) -> Iterator[Update]:
    """`ExecutionSource.follow` for all members of the workflows that ``ids`` belong to, and for those that
    come meanwhile.
    """
    seen: set[str] = set()
    found = members(source.list(Query(), NEWEST), ids)
    while new := [execution_id for execution_id in found if execution_id not in seen]:
        seen.update(new)
        yield from source.follow(new)
        found = members(source.list(Query(), NEWEST), seen)


def members(executions: Iterable[Execution], ids: Iterable[str]) -> list[str]:
    """The ids of all executions that share a root or a group with one of ``ids``, oldest first; an
    id that nobody knows stays.

    An id may be a member's, the root's or the group's. What a chord calls at its end has one of its
    members as the root.
    """
    known = list(executions)[::-1]
    asked, links, before = set(ids), set(ids), set[str]()
    joined: list[Execution] = []
    while links != before:
        before = links
        joined = [execution for execution in known if not links.isdisjoint(_links(execution))]
        links = links.union(*map(_links, joined))
    unknown = asked.difference(*map(_links, joined))
    return [execution.execution_id for execution in joined] + sorted(unknown)


def _links(execution: Execution) -> set[str]:
    return {
        each
        for each in (execution.execution_id, execution.root_id, execution.group_id)
        if each is not None
    }
