"""The goals of the benchmarks. A test compares none of them: machines differ."""

from collections.abc import Mapping

#: Row -> the highest ratio of Headway's cost to the cost of the alternative.
MAX_RATIO: Mapping[str, float] = {
    "update": 0.65,
    "update with attributes": 1.5,
    "track": 0.65,
    "guarded write": 1.25,
    "stored update": 0.5,
    "publish": 1.25,
    "page": 1.2,
    "viewer latency": 1.5,
    "frame": 1.0,
    "handshake": 2.0,
    "viewer memory": 2.0,
    "commands": 1.0,
}

#: Bytes of the server per execution, result included.
MAX_BYTES_PER_EXECUTION = 700
