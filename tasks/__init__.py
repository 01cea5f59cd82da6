"""The service's jobs: real work on real input. Each module shows one way to report progress.

They are shared tasks with explicit names, as in a larger project, and ``headway.install(app)``
covers them like any task. A task's name (``tasks.import_csv``) is part of the API, and differs from
the path of its module (``tasks/imports.py``). So a module can be renamed or merged while messages
and results with that name exist.
"""

from tasks.bytecode import unknown_length
from tasks.checksums import checksum
from tasks.imports import import_csv
from tasks.indexing import pipeline
from tasks.packing import fails_half_way

__all__ = ["checksum", "fails_half_way", "import_csv", "pipeline", "unknown_length"]
