"""A terminal at a running service: the seat's calls and events over a Unix socket, one JSON object a line."""
