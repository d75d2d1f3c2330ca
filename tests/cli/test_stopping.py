"""Ctrl-C and SIGTERM: what a command makes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from prunerzero.cli.options import one_sentence

STOPS = [(signal.SIGINT, 130, "Interrupted.\n"), (signal.SIGTERM, 143, "Interrupted by SIGTERM.\n")]


@pytest.mark.parametrize(("stop", "exit_code", "message"), STOPS)
def test_a_command_that_is_stopped_says_so_and_by_what_if_not_by_its_user(
    stop: signal.Signals, exit_code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    @one_sentence
    def command() -> None:
        os.kill(os.getpid(), stop)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(typer.Exit) as exit:
            command()
    finally:
        signal.signal(signal.SIGINT, before)
    assert exit.value.exit_code == exit_code
    assert capfd.readouterr().err == message


def test_a_signal_in_the_midst_of_a_destructor_is_not_lost() -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    @one_sentence
    def command() -> None:
        last = Last()
        del last
        time.sleep(60)

    with pytest.raises(typer.Exit) as exit:
        command()
    assert exit.value.exit_code == 143


def test_a_second_sigterm_does_not_disturb_the_cleaning_up() -> None:
    cleaned_up = False

    @one_sentence
    def command() -> None:
        nonlocal cleaned_up
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned_up = True

    with pytest.raises(typer.Exit):
        command()
    assert cleaned_up


def test_sigterm_is_the_systems_again_after_the_command() -> None:
    one_sentence(lambda: None)()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(("stop", "exit_code", "message"), STOPS)
def test_a_command_that_is_stopped_while_it_starts_shows_no_traceback(
    stop: signal.Signals, exit_code: int, message: str, tmp_path: Path
) -> None:
    """By a torch that sends the signal while it is being imported, and would swallow it."""
    (tmp_path / "torch.py").write_text(f"""
import os
try:
    os.kill(os.getpid(), {stop.value})
    while True:
        pass
except BaseException:
    pass
""")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "prunerzero", "metrics"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "", message)
