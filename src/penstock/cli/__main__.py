"""`python -m penstock.cli`: the command line where the script is not on the path."""

from penstock.cli.entry import main

main()
