"""The values of settings: how each kind is read, what it says of itself, and how it is written in TOML."""
