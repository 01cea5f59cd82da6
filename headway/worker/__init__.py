"""Inside the worker: the only part that uses Celery's ``Task``. It does not know the web side.

The way of one update::

    ctx.progress.update()          validation.py      an invalid report raises UsageError at once
      -> Reporter                  reporter.py        keeps the newest; writes at intervals
      -> Task.update_state         attempt.py         a task's own override of it is respected
      -> Backend.store_result      fenced_backend.py  tried once, bounded, without the arguments
      -> Store.write               stores/            the guarded write: refused if the attempt is
                                                      not the open one

The way of one attempt::

    publish                        publishing.py      before_task_publish -> Store.register: the id
                                                      is known before the message is sent
    STARTED, or else __call__      fenced_backend.py, install.py
                                                      an Attempt, numbered by the store
    the task's code                context.py         RequestContext.get()
    __call__ returns or raises     install.py         the last report is written
    Celery stores the end          fenced_backend.py  through Store.write, from any process
    task_postrun                   attempt.py         an end that Celery does not store is recorded

``state_writer.py`` writes what Celery does not: the start, and those ends.
One thread runs all timers of a process (``scheduler.py``). Every private part of Celery's task side
is in ``celery_internals.py``.
"""
