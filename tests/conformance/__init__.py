"""One suite over every implementation of a port, the fakes included."""
