"""A throwaway PostgreSQL server: Debian's own programs, a folder that goes, a port on loopback."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

FOLDERS = ("/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt")


def find_programs() -> Path | None:
    """The folder that holds ``initdb`` and ``pg_ctl``; ``None`` where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    folders = [path.parent for root in FOLDERS for path in sorted(Path(root).glob("*/bin/initdb"))]
    return folders[-1] if folders else None


class PostgresServer:
    """A running server; a context manager."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._numbers = itertools.count(1)
        # the programs refuse to run as root
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

    def __enter__(self) -> Self:
        memory = Path("/dev/shm")
        self.folder = Path(
            tempfile.mkdtemp(prefix=f"ftpipe-pg-{os.getpid()}-", dir=memory if memory.is_dir() else None)
        )
        if os.geteuid() == 0:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._run("initdb", "-D", str(self._data), "-U", "ftpipe", "--auth=trust", "-N", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
            " -c shared_buffers=16MB -c fsync=off -c max_connections=40"
        )
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop as a power cut would."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def url(self) -> str:
        """A new, empty database."""
        name = f"ftpipe{next(self._numbers)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "ftpipe", name)
        return f"postgresql://ftpipe@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *args: str) -> None:
        user = self._user if os.geteuid() == 0 else None
        subprocess.run(
            [self._programs / program, *args],
            user=user,
            cwd=self.folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
