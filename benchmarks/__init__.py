"""Benchmarks: Headway beside an alternative, both measured in the same run.

``python -m benchmarks [NAME ...] [--quick]`` prints ratios. No test asserts a time. `measure` times
the two sides, `jobs` runs in a Celery worker, `latency` and `many_viewers` measure the way to the
browser, `listing` the registry, `goals` has the goals, and `__main__` prints the table.
"""
