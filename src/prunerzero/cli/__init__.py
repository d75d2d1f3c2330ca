"""The command line: one short function a command, which calls a task and prints its result."""

import os
import sys

from prunerzero.cli.stopping import end_at_once


def main() -> None:
    """Entry point of the ``prunerzero`` command."""
    end_at_once()  # before torch, which takes seconds to import
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings are not the user's
    from prunerzero.cli.plain_output import never_fail_to_print

    never_fail_to_print()
    try:
        from prunerzero.cli.commands import app
    except ValueError as error:  # a plug-in that cannot be loaded
        sys.exit(_refused(error))
    app()


def _refused(error: ValueError) -> int:
    """Tell what is wrong with a plug-in, in one sentence; the exit code of bad input."""
    from prunerzero.metrics.errors import OperatorError

    if not isinstance(error, OperatorError):
        raise error
    print(f"Error: {error}", file=sys.stderr)
    return 2
