"""Workers without a shared folder: a real PostgreSQL server, started here and stopped after."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import start_server
from many_workers import run_worker, start_worker

from prunerzero.evolution import SearchStudy, StudyMismatchError

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""Where Debian's package ``postgresql`` puts them, the newest last."""

pytestmark = pytest.mark.skipif(
    not BINARIES, reason="NO POSTGRESQL: apt-get install postgresql, to test workers that share one"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of the server, without a database's name."""
    port = free_port()
    # root may not run a server: then Debian's own user for it does
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(BINARIES[-1] / program), *arguments],
            cwd=folder,
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "search", "--auth=trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://search@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    import psycopg

    name = f"study_{time.monotonic_ns()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"


def wait_for_an_evaluation(database: str, counted: int) -> None:
    """Until more than so many have been measured."""
    import psycopg

    measured = "SELECT count(*) FROM trial_user_attributes WHERE key = 'measured'"
    with psycopg.connect(database, autocommit=True) as connection:
        while connection.execute(measured).fetchall()[0][0] <= counted:
            time.sleep(0.01)


def test_workers_of_a_database_share_budget_duplicates_and_judging(
    database: str, tmp_path: Path
) -> None:
    start_server()
    judged = tmp_path / "judged.txt"
    workers = [start_worker(database, 40, 0.002, judged) for _ in range(3)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with SearchStudy.open(database) as study:
        candidates = [i.candidate for i in study.population.individuals]
    assert len(candidates) == 40
    assert len({c.ranking for c in candidates}) == 40
    assert set(Counter(judged.read_text().splitlines()).values()) == {1}


def test_a_worker_of_a_database_that_is_killed_loses_what_was_in_flight_and_no_more(
    database: str,
) -> None:
    start_server()
    SearchStudy.open(database).close()
    counted = 0
    for turn in range(3):
        worker = start_worker(database, 10**6, 0.002)
        wait_for_an_evaluation(database, counted)
        time.sleep(0.02 * turn)
        worker.kill()
        worker.join()
        with SearchStudy.open(database) as study:
            assert study.lost <= 1
            assert not study.in_flight
            counted = len(study.population.individuals)
            draws = study.next_draw(None)
        assert draws == counted, "the draw that was lost is the next one"
    run_worker(database, counted + 3)
    with SearchStudy.open(database) as study:
        assert len(study.population.individuals) == counted + 3


def test_another_search_in_a_database_is_refused(database: str) -> None:
    SearchStudy.open(database, {"sparsity": "0.5"}).close()
    with pytest.raises(StudyMismatchError, match=r"begun with sparsity '0\.5', not '2:4'"):
        SearchStudy.open(database, {"sparsity": "2:4"})


def test_a_database_that_cannot_be_reached_is_told_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"the database cannot be used: .*[Cc]onnection") as raised:
        SearchStudy.open(f"postgresql://127.0.0.1:{free_port()}/search")
    assert "\n" not in str(raised.value)
