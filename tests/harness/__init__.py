"""What the tests stand on: a stage across accounts, hostile trees, and a judge that reads /proc and no Corral code."""
