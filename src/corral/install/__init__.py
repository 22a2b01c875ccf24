"""What an operator needs before the service runs: a first config, and whatever else must be right on the machine."""
