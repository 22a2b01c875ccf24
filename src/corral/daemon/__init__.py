"""`corral serve`: the service in the foreground: signals, reload, lock, log, and the list of front ends."""
