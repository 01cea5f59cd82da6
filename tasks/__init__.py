"""The service's jobs: real work on real input, each showing one way to report progress (see each
module's first sentence).

They are shared tasks with names of their own, as a deployment's would be; ``headway.install(app)``
covers them as it does any.
"""

from tasks.bytecode import unknown_length
from tasks.checksums import checksum
from tasks.imports import import_csv
from tasks.indexing import pipeline
from tasks.packing import fails_half_way

__all__ = ["checksum", "fails_half_way", "import_csv", "pipeline", "unknown_length"]
