"""People, their conversations, the pool of backends that serves them, and the store that outlives it all."""
