"""Where the database lies: read-only, full, linked, on the network; and who else is at it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from ftpipe.errors import LocalStateError
from ftpipe.records import RunState
from ftpipe.registry import open_registry
from ftpipe.registry.database import filesystem_of
from ftpipe.registry.migrations import MIGRATIONS, migrate, schema_version
from tests.faults.environment import ONE_OF_EACH, FaultEnvironment

NOBODY = 65534


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[None]:
    """Permissions count: root would pass them all by."""
    if os.geteuid() != 0:
        yield
        return
    tmp_path.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_registry_read_only_folder_is_reported(tmp_path: Path, unprivileged: None) -> None:
    """Row 19: exit 6, the place, and how to name another."""
    with pytest.raises(LocalStateError, match=r"Permission denied|unable to open") as caught:
        open_registry(tmp_path / ".ftpipe" / "registry.db")
    assert "FTPIPE_REGISTRY" in caught.value.hint


def test_registry_read_only_database_is_reported(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Row 19: it is there, and read-only for this user."""
    path = tmp_path / "registry.db"
    open_registry(path).close()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    request.getfixturevalue("unprivileged")
    with pytest.raises(LocalStateError, match="cannot write") as caught:
        open_registry(path)
    assert caught.value.exit_code == 6


def test_registry_files_are_private(environment: FaultEnvironment) -> None:
    """Row 36: database, log and locks are closed to others from their first byte."""
    environment.train()
    for path in (environment.path, *environment.path.parent.glob("registry.db-*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (environment.path.parent / "locks").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_registry_refuses_symbolic_link(tmp_path: Path, suffix: str) -> None:
    """Row 36: a link in the place of the database or its companions leads nowhere."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"registry.db{suffix}").symlink_to(victim)
    with pytest.raises(LocalStateError, match="symbolic link"):
        open_registry(tmp_path / "registry.db")
    assert victim.read_text() == "precious"


def test_registry_lock_does_not_follow_link(environment: FaultEnvironment) -> None:
    """Row 36: lock files that are links are refused, and what they point at stays as it is."""
    victim = environment.folder / "victim"
    victim.write_text("precious")
    run = environment.pipeline().registry
    locks = environment.path.parent / "locks"
    with run.lock("a"):
        (name,) = [path.name for path in locks.iterdir()]
    (locks / name).unlink()
    (locks / name).symlink_to(victim)
    try:
        with run.lock("a"):
            pass
    except LocalStateError as error:
        assert error.hint
    assert victim.read_text() == "precious"


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /home rw - nfs4 server:/home rw
31 22 0:31 / /mnt/my\\040share rw - cifs //server/share rw
32 30 0:32 / /home/me/local rw - xfs /dev/vdb rw
broken line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/me", "nfs4"), ("/mnt/my share/x", "cifs"), ("/home/me/local/p", "xfs"), ("/srv", "ext4")],
)
def test_filesystem_of_reads_mount_table(tmp_path: Path, folder: str, kind: str) -> None:
    """Row 19: the longest mount wins, escapes are undone, odd lines are passed by."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert filesystem_of(Path(folder), table) == kind


@pytest.mark.slow
def test_registry_full_disk_keeps_last_committed_step(environment: FaultEnvironment) -> None:
    """Row 18: the size of files is limited, writing fails, exit 6; with room again the run goes on, one job."""
    source = Path(__file__).parents[2]
    script = (
        "import sys, resource, signal\n"
        "from pathlib import Path\n"
        "from tests.faults.environment import *\n"
        "from ftpipe.errors import LocalStateError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "class E: base_url = sys.argv[2]\n"
        "b = FaultEnvironment(Path(sys.argv[1]), E())\n"
        "b.registry\n"
        "size = Path(b.url).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[3]), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    b.train()\n"
        "except LocalStateError as error:\n"
        "    print(error.exit_code, error.message, error.hint, sep='|')\n"
    )
    for room in (8_192, 50_000):
        ran = subprocess.run(
            [sys.executable, "-c", script, str(environment.folder), environment.endpoint.base_url, str(room)],
            cwd=source,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        if ran.stdout:
            assert ran.stdout.startswith("6|cannot write to"), ran.stdout
            assert "free some disk space" in ran.stdout
        with sqlite3.connect(environment.path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_migrate_refuses_newer_database(tmp_path: Path) -> None:
    """Row 21: refused with the upgrade command, and not changed."""
    path = tmp_path / "registry.db"
    open_registry(path).close()
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO schema_version VALUES (99, 'later')")
    before = path.read_bytes()
    with pytest.raises(LocalStateError, match="99") as caught:
        open_registry(path)
    assert "pip install -U" in caught.value.hint
    assert path.read_bytes() == before


def test_migrate_updates_older_database_with_backup(environment: FaultEnvironment) -> None:
    """Row 21: a made-up version 2 is applied once to a database with records; version 1 stays beside it."""
    run, applied = environment.train(), []

    def add_notes(connection: sa.Connection) -> None:
        applied.append(connection)
        connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN notes TEXT NOT NULL DEFAULT 'none'")

    for _ in range(2):
        migrate(environment.registry.engine, [*MIGRATIONS, add_notes])
    assert len(applied) == 1
    with environment.registry.engine.connect() as connection:
        assert schema_version(connection) == 2
        assert connection.exec_driver_sql("SELECT id, notes FROM runs").one() == (run.id, "none")
    with sqlite3.connect(environment.path.parent / "registry.db.v1.backup") as backup:
        assert backup.execute("SELECT id FROM runs").fetchall() == [(run.id,)]
        assert backup.execute("SELECT max(number) FROM schema_version").fetchone() == (1,)
    backup.close()


def test_migrate_that_fails_changes_nothing(environment: FaultEnvironment) -> None:
    """Row 21: the migration and its version are one transaction."""
    run = environment.train()

    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("DELETE FROM runs")
        message = "half done"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="half done"):
        migrate(environment.registry.engine, [*MIGRATIONS, fail])
    with environment.registry.engine.connect() as connection:
        assert schema_version(connection) == 1
    assert environment.registry.runs.latest() == run


def test_registry_refuses_foreign_database_file(tmp_path: Path) -> None:
    """A file of another program is not made into a registry."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(LocalStateError, match="not ftpipe's"):
        open_registry(path)


def _train(folder: Path, base_url: str, results: multiprocessing.Queue[str]) -> None:
    class Elsewhere:
        pass

    there = Elsewhere()
    there.base_url = base_url  # type: ignore[attr-defined]  # all that a environment needs of an endpoint that is elsewhere
    with FaultEnvironment(folder, there) as environment:  # type: ignore[arg-type]  # as above
        results.put(str(environment.train().state))


def test_open_waits_for_a_process_that_creates_the_database(tmp_path: Path) -> None:
    """SQLite refuses the change to its write-ahead log at once while another connection writes."""
    path = tmp_path / "registry.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as threads:
        other.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            contextlib.closing(sqlite3.connect(path)) as third,
        ):
            third.execute("PRAGMA busy_timeout=200")
            third.execute("PRAGMA journal_mode=WAL")
        opened = threads.submit(open_registry, path)
        with pytest.raises(TimeoutError):
            opened.result(timeout=0.5)
        other.execute("ROLLBACK")
        assert opened.result(timeout=60).runs.recent(1) == []


@pytest.mark.slow
def test_registry_lock_six_processes_make_one_job(environment: FaultEnvironment) -> None:
    """Row 22: one creates, the others wait and attach; every one ends well."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.environment"])
    results: multiprocessing.Queue[str] = context.Queue()
    arguments = (environment.folder, environment.endpoint.base_url, results)
    processes = [context.Process(target=_train, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    ends = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert ends == ["registered"] * 6
    assert environment.counts() == ONE_OF_EACH


def test_registry_lock_is_released_when_holder_is_killed(environment: FaultEnvironment) -> None:
    """Row 23: SIGKILL leaves the lock file, and nobody waits for it."""
    registry = environment.registry
    script = (
        "import signal, sys\n"
        "from ftpipe.registry import open_registry\n"
        "with open_registry(sys.argv[1]).lock('run'):\n"
        "    print('held', flush=True)\n"
        "    signal.pause()\n"
    )
    command = [sys.executable, "-c", script, str(environment.path)]
    waited: list[bool] = []
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    with registry.lock("run", on_wait=lambda: waited.append(True)):
        assert waited == []
