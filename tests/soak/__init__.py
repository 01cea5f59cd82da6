"""The soak test: thousands of viewers on one web process while executions come and go, and nothing
left afterwards.

``python -m tests.soak [--small]`` runs it and prints a table; it is bounded by a number of
executions, and takes some minutes. It isn't part of ``make test``; a small one of the same is
(``tests/acceptance/test_soak.py``). ``app`` is the web process, ``room`` looks at what that holds,
``shows`` is one execution and its audience, ``run`` is the whole.
"""
