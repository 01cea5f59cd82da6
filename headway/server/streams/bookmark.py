"""How far a client of server-sent events has read: the ``id`` of an event, and what it needs when
it comes back with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from headway.core import serialize
from headway.models import Execution, Phase, Progress, Status

_WRITTEN = re.compile(r"(\d{1,9})-([a-z]{1,12})-([a-z]{1,12})-([0-9a-f]{12})?")


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """What a client knows after an event, small enough for the event's ``id``.

    It holds all that `frames.frames_between` compares, the progress as a digest. So any web process
    can tell what the client has missed since, by looking at the execution alone: nobody has to
    remember what was sent, or to whom.
    """

    attempt: int
    status: Status
    phase: Phase
    #: Of what the task said last; None: it had said nothing.
    digest: str | None

    @classmethod
    def behind(cls, kind: str, execution: Execution) -> ResumeToken | None:
        """After the frame of this kind about the execution; None where the frame says nothing of
        it.
        """
        if kind == "error":
            return None
        digest = _digest(execution.progress)
        if kind == "started" or (kind == "status" and execution.status.terminal):
            # Another frame follows it at once. Who was cut off between the two is still owed that
            # one: the progress, or the end.
            return cls(
                execution.attempt,
                Status.RUNNING,
                Phase.RUNNING,
                None if kind == "started" else digest,
            )
        return cls(execution.attempt, execution.status, execution.phase, digest)

    @classmethod
    def parse(cls, text: str) -> ResumeToken | None:
        """What `__str__` wrote; None for anything else: whoever can't say what it knows is told
        everything.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            return None
        try:
            return cls(int(match[1]), Status(match[2]), Phase(match[3]), match[4])
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.attempt}-{self.status.value}-{self.phase.value}-{self.digest or ''}"

    def knows_progress(self, execution: Execution) -> bool:
        """Whether the execution's progress is the one that it marks."""
        return self.digest == _digest(execution.progress)

    def believed(self, execution: Execution) -> Execution:
        """The execution as the client saw it last, as far as it matters to what it is told next."""
        progress = execution.progress if self.knows_progress(execution) else None
        return Execution(
            execution.execution_id, self.status, self.phase, progress, attempt=self.attempt
        )


def _digest(progress: Progress | None) -> str | None:
    """Of what `Progress.same_as` compares."""
    if progress is None:
        return None
    said = [progress.current, progress.total, progress.message, progress.attributes]
    return blake2b(serialize.encode(serialize.json_safe(said)), digest_size=6).hexdigest()
