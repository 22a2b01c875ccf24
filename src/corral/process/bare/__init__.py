"""What the reaper runs, in an interpreter that was started with `-I -S`: the small half of this room.

A module here imports only modules of the standard library that cost little to load, and nothing of Corral outside this
package, so that a reaper starts fast and stays small. The supervisor's side, in `corral.process`, uses it too.
"""
