"""`python -m tenfold.cli`."""

from tenfold.cli.app import main

main()
