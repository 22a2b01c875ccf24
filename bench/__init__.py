"""What Corral costs, beside what it replaces: `make bench`, or `python -m bench --quick` for a short look.

Every figure is taken with its rivals in the same run, turn by turn, because no two runs share a machine in the same
mood. What counts is the ratio and the number of processes left behind; a millisecond is this machine's.
"""
