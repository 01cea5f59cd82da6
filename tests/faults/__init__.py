"""The fault matrix: whatever dies, repeats or comes late, what is shown is what happened. ``make
faults`` runs it.

Each row makes one fault many times over, on real workers and a real Valkey, and knows what really
happened, because it made it happen. Two observers look on from the publish to after the last
worker's end: a viewer of the hub, as every open page is one, and a poller, as every client of REST
is one (``watching.py``). One run is one execution; it is wrong if either was ever shown something
that wasn't so, or if Celery's own record says something else at the end.

    rows.py       what a row is               room.py      servers, workers and observers of one row
    jobs.py       what the workers run        clock.py     a clock that a test can set back, in the worker alone
    kills.py limits.py revokes.py repeats.py outages.py ends.py cancels.py        the rows
    __main__.py   runs them on each version of Celery, prints the table
"""
