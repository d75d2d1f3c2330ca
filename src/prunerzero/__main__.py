"""``python -m prunerzero`` is the ``prunerzero`` command."""

from prunerzero.cli import main

main()
