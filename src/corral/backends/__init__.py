"""One engine a module: its wire protocol over a job's pipes, turned into the events of `corral.backends.events`."""
