"""One thread, as in the commands that tests start, so that figures of both agree to the bit."""

import functools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import typer.testing  # noqa: E402

# it builds all commands anew for each that a test runs in this process
typer.testing._get_command = functools.cache(typer.testing._get_command)
