"""The soak test: thousands of viewers on one web process while executions start and end. Afterwards
no resource may be in use.

``python -m tests.soak [--small]`` runs it and prints a table. A number of executions bounds it: it
takes some minutes. ``make test`` runs a small one (``tests/acceptance/test_soak.py``).

    app.py          the web process
    environment.py  what that process holds: memory, threads, connections
    scenario.py     one execution and its viewers
    run.py          the whole test
"""
