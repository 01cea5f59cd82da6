"""What tests stand on: waiting, processes, servers, and what is missing on this machine."""
