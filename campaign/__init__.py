"""The fault campaign: random trees, random faults at random moments, and an observer outside that counts.

`python -m campaign` (or `make campaign`). It stands beside the tests, on their stage, and is no part of the package.
Only `supervisor.py` imports Corral; what judges reads /proc alone.
"""
