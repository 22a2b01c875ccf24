"""One engine a module: its wire protocol over a job's pipes, turned into one set of events (`corral.backends.events`)."""
