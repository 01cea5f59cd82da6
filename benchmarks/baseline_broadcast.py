"""The ``broadcast`` of the `websockets` library: ``python -m benchmarks.baseline_broadcast``.

A client gets the newest message when it connects, and then each that follows. A client of
``/control`` sends ``{"bodies": [...], "pause": seconds}``: the server sends the bodies to all
others, one after the other, and replies after the last.
"""

from __future__ import annotations

import asyncio
import json

from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main() -> None:
    """Serve on a free port of the loopback address, and print the port."""
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
        async for text in socket:
            command = json.loads(text)
            for newest in command["bodies"]:
                broadcast(viewers, newest)
                await asyncio.sleep(command["pause"])
            await socket.send("done")

    async with serve(connected, "127.0.0.1", 0, compression=None) as server:
        print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
