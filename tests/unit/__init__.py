"""Pure and fast: no process, no socket, no clock but an injected one."""
