"""Live streams: one hub per web process, and the transports that deliver its changes.

The way of one change to a browser::

    the feed's message       feeds/            from the feed's thread: `Hub.changed` stores it and wakes the hub
      -> Hub._process        hub.py            a report of the open attempt is used as it is; anything else is read
      -> states.resolve      core/states.py    registry and result backend become one `Execution`
      -> frames_between      core/frames.py    the frames that follow from the difference
      -> Frame               changes.py        encoded once, shared by every viewer
      -> Fanout.deliver      fanout.py         to each viewer, with pauses for other threads
      -> Viewer.deliver      websocket.py, websocket_multi.py, sse.py, long_poll.py
      -> ViewerConnection    connection.py     one non-blocking send; what does not fit waits in a `Backlog`
      -> Flusher             flusher.py        sends the rest when the client reads again

Threads of one web process:

    headway-feed             reads the result backend's messages (feeds/)
    headway-hub              owns what is known of every watched execution; delivers
    headway-flush            sends to slow viewers; runs only while there are some
    headway-supervisor       pings, disconnects dead viewers, closes all when the server stops
    the server's own         one thread or greenlet per stream: the handshake, then it waits for the end

Changes arrive here in order and leave in order. Reports that wait are merged to the newest one;
nothing else is ever dropped. `limits` decides how many viewers a process may have, `handshake` and
`rfc6455` are the WebSocket protocol's part.
"""
