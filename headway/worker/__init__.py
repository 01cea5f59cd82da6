"""Inside the worker: the only part that touches Celery's ``Task``. It knows nothing of the web
side.

The way of one update::

    ctx.progress.update()          report.py    a wrong report raises UsageError, before anything is stored
      -> Reporter                  reporter.py  keeps the newest; writes the first at once, then the newest each interval
      -> Task.update_state         attempt.py   a task's own override of it is honoured
      -> Backend.store_result      fence.py     tried once, bounded, without the task's arguments
      -> Store.write               (stores)     one guarded write: refused if this attempt isn't the open one

The way of one run::

    publish                        publishing.py  before_task_publish -> Store.register: the id is known before the message leaves
    STARTED, or else __call__      fence.py, task.py  a new Attempt hangs on the request; Store.open numbers it
    the task's code                context.py     RequestContext.get()
    __call__ returns or raises     task.py        the last report is written, then the reporter is latched
    Celery stores the end          fence.py       through the same Store.write, from whatever process it comes
    task_postrun                   attempt.py     an end that Celery stores nowhere is recorded

One thread serves all timers of a process (``scheduler.py``), and every private place of Celery is
in ``seams.py``.
"""
