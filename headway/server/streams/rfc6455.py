"""The part of RFC 6455 that needs no state: frames with the same bytes for every viewer.

simple-websocket (wsproto) does the rest for each connection: handshake, pongs, closes. Text frames
from a server are not masked, so their bytes are the same for all viewers and are made once.
"""

from __future__ import annotations

import base64
import binascii
import struct

_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89  # FIN and the opcode


def text(body: bytes) -> bytes:
    """A whole text message in one frame. ``body`` is UTF-8."""
    return _header(_TEXT, len(body)) + body


#: A ping without a payload: any byte from the client proves that it is alive, so no payload is
#: compared.
PING = bytes((_PING, 0))


def contains_close_frame(frames: bytes) -> bool:
    """Whether a close is among these control frames.

    The control frames of simple-websocket are not masked and have at most 125 bytes (section 5.5).
    """
    start = 0
    while start + 1 < len(frames):
        if frames[start] == _CLOSE:
            return True
        start += 2 + frames[start + 1]
    return False


def _header(first: int, length: int) -> bytes:
    """RFC 6455, section 5.2."""
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def key_is_valid(key: str) -> bool:
    """Whether a ``Sec-WebSocket-Key`` is 16 bytes in base64 (RFC 6455, section 4.2.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
