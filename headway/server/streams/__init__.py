"""Live streams: one hub per web process, and the transports that deliver its changes.

The way of one change to a browser::

    feeds/                   reads a message: `Hub.changed` stores it and wakes the hub's thread
      hub.py                 `Hub._process`: a report of the open attempt is delivered as it is;
                             for every other message the store is read
      core/states.py         `resolve`: registry and result backend become one `Execution`
      core/frames.py         `frames_between`: the frames that follow from the difference
      changes.py             `Frame`: encoded once, shared by every viewer
      fanout.py              `Fanout.deliver`: to each viewer, with pauses for other threads
      websocket.py, websocket_multi.py, sse.py, long_poll.py
                             `Viewer.deliver`: one transport each
      connection.py          `ViewerConnection.enqueue`: one non-blocking send of a WebSocket
      backlog.py             `Backlog`: what a slow client has not read; reports are merged
      flusher.py             sends the rest when the client reads again

Threads of one web process:

    headway-feed             reads the result backend's messages (feeds/)
    headway-hub              owns what is known of every watched execution; delivers
    headway-flush            sends to slow viewers; runs only while there are some
    headway-supervisor       pings, disconnects dead viewers, closes all when the server stops
    the server's own         one thread or greenlet per stream: does the handshake, then waits for
                             the end and closes

Each viewer gets the changes of an execution in order. Only reports are merged, to the newest one;
no other frame is dropped while its client reads. `limits` bounds the number of viewers of a
process, `supervisor` ends streams, `handshake` and `rfc6455` are the WebSocket protocol's part.
"""
