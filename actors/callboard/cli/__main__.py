"""`python -m callboard.cli`: how a supervisor starts its workers, and the command where no script is installed."""

from callboard.cli import main

main()
