"""The few bytes of RFC 6455 that are written without a state machine: what a server sends to every
viewer alike.

simple-websocket (wsproto) still speaks for each connection by itself: handshake, pongs, closes. A
text frame from a server is not masked, so its bytes are the same for all, and are made once.
"""

from __future__ import annotations

import base64
import binascii
import struct

_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89  # FIN and the opcode


def text(body: bytes) -> bytes:
    """A whole text message in one frame. ``body`` is UTF-8."""
    return _header(_TEXT, len(body)) + body


#: A ping without content: any byte that comes back is a sign of life, so there is nothing to
#: compare.
PING = bytes((_PING, 0))


def contains_close_frame(frames: bytes) -> bool:
    """Whether a close is among the control frames that simple-websocket sends: unmasked, 125 bytes
    at most (section 5.5).
    """
    begin = 0
    while begin + 1 < len(frames):
        if frames[begin] == _CLOSE:
            return True
        begin += 2 + frames[begin + 1]
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
