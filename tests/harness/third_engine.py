"""The command line of a Corral with one engine more: `third_engine.py FOLDER ARGUMENTS…`.

FOLDER holds `parrot_entry.py`, which is all that the engine consists of besides its program. Adding its line to the
registry here, before anything else is loaded, is what the line in `corral.backends.registry` does for the others.
"""

import sys

from corral.backends import registry

folder, *arguments = sys.argv[1:]
sys.path.insert(0, folder)
registry.MODULES["parrot"] = "parrot_entry"  # type: ignore[index]

from corral.__main__ import main  # noqa: E402

sys.argv[1:] = arguments
main()
