"""What tests build on: waiting, processes, servers, fakes, and requirements of the machine."""
