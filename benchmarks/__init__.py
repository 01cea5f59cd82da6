"""Headway beside what one would use instead, both sides measured in one go: ``python -m benchmarks
[NAME ...] [--quick]``.

No test asserts a time; these print ratios, and a person reads them. ``rounds`` measures, ``jobs``
is what runs inside a real worker, ``viewers`` measures the way to a browser, ``__main__`` prints
the table.
"""
