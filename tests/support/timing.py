"""Time limits of the tests, and the one factor that stretches all of them on a slow machine.

HEADWAY_TEST_TIMEOUT_FACTOR (default 1) multiplies every time limit. A limit only bounds how long a
broken test takes to fail, so a large factor never slows a test that passes.

``within=`` parameters are scaled by `wait.until`. Limits for sockets and libraries go through
`seconds`.
"""

from __future__ import annotations

import os

VARIABLE = "HEADWAY_TEST_TIMEOUT_FACTOR"
FACTOR = float(os.environ.get(VARIABLE, "1"))


def seconds(limit: float) -> float:
    """The time limit for this machine."""
    return limit * FACTOR


#: Seconds for a running server, worker or page to respond.
RESPONSE_TIMEOUT = seconds(60.0)
