"""Starts the reaper: `python -I -S boot.py DESCRIPTOR`.

-I and -S keep the caller's environment, the working folder and site-packages out of it; the folder of this package is
all that is added to the standard library. The module itself stays small because a script is compiled at every start,
where what it imports is not.
"""

import sys

# Last, because installed it is site-packages, and what lies there must not stand before the standard library.
sys.path.append(__file__.rsplit("/", 4)[0])

from corral.process.bare.reaper import main

main(int(sys.argv[1]))
