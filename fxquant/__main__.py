"""`python -m fxquant`: the command line where the script's folder is not on PATH."""

from fxquant.cli import main

main()
