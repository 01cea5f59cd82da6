"""The least code from a published message to a browser: ``python -m benchmarks.baseline_relay
REDIS_URL CHANNEL``.

Each WebSocket client gets what is published on the channel, and an echo of what it sends.
"""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio
from websockets.asyncio.server import ServerConnection, serve


async def main(url: str, channel: str) -> None:
    """Serve on a free port of the loopback address, and print the port."""

    async def connected(socket: ServerConnection) -> None:
        client = redis.asyncio.Redis.from_url(url)
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(channel)
            forwarding = asyncio.create_task(forward(subscription, socket))
            async for text in socket:
                await socket.send(text)
            forwarding.cancel()
        await client.aclose()

    async def forward(subscription: redis.asyncio.client.PubSub, socket: ServerConnection) -> None:
        async for message in subscription.listen():
            await socket.send(message["data"].decode())

    async with serve(connected, "127.0.0.1", 0, compression=None) as server:
        print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
