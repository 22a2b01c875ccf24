"""`python -m corral` is `corral`."""

from corral.cli import main

main()
