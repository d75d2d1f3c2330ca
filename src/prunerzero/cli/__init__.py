"""The command line: one short function a command, which calls a task and prints its result."""

import os

from prunerzero.cli.stopping import end_at_once


def main() -> None:
    """Entry point of the ``prunerzero`` command."""
    end_at_once()  # before torch, which takes seconds to import
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings are not the user's
    from prunerzero.cli.commands import app
    from prunerzero.cli.plain_output import never_fail_to_print

    never_fail_to_print()
    app()
