"""The fault matrix: processes die, messages repeat, writes come late, and the shown state must be
right all the time. ``make faults`` runs it.

Each scenario causes one fault many times, with real workers and a real Valkey. It knows what really
happened, because it caused it. Two observers watch each execution until after the last worker has
ended: a viewer of the hub, as every open page is one, and a poller, as every REST client is one. An
execution is wrong if an observer ever saw a wrong state, or if Celery's own record is wrong in the
end.

    scenarios.py     what a scenario is
    environment.py   servers, workers and observers of one scenario
    observers.py     the two observers, and the check of what they saw
    jobs.py          the tasks of the workers
    sync_channel.py  messages between a task and its scenario
    clock_offset.py  a settable clock for a worker
    kills.py limits.py revokes.py cancels.py repeats.py outages.py ends.py    the scenarios
    matrix.py        runs the scenarios on each version of Celery
    report.py        the printed results
    __main__.py      the command line
"""
