"""The ``websockets`` library's own way to tell many: ``python -m benchmarks.baseline_broadcast``.

Whoever connects gets the newest message and then each that follows. What is sent to ``/control``,
``{"bodies": [...], "pause": seconds}``, goes to all of them, one after the other, and is answered
when the last is out.
"""

from __future__ import annotations

import asyncio
import json

from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main() -> None:
    """Serve on a free port of the loopback address, and say which."""
    viewers: set[ServerConnection] = set()
    newest = "{}"

    async def connected(socket: ServerConnection) -> None:
        nonlocal newest
        assert socket.request is not None
        if socket.request.path != "/control":
            await socket.send(newest)
            viewers.add(socket)
            await socket.wait_closed()
            viewers.discard(socket)
            return
        async for words in socket:
            order = json.loads(words)
            for newest in order["bodies"]:
                broadcast(viewers, newest)
                await asyncio.sleep(order["pause"])
            await socket.send("done")

    async with serve(connected, "127.0.0.1", 0, compression=None) as server:
        print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
