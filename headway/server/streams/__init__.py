"""Live streams: one hub, and the transports WebSocket, server-sent events and long polling over it."""
