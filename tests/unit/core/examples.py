"""How many examples Hypothesis tries for the pure core.

Few by default, so that these tests take under a second. All of them with ``CI=true``.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("quick", settings.get_profile("ci"), max_examples=10)
settings.register_profile("thorough", settings.get_profile("ci"))

#: A decorator above ``@given``.
examples = settings.get_profile("thorough" if os.environ.get("CI") else "quick")
