"""What outlives the process: the database, its schema, and what is read from and written to it."""
