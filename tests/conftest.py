"""What every test starts from: a home and a working folder of its own, no key from the outside; and what it leaves."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

# Processes that tests start find compiled modules, as those that users start do; and three workers on two cores with
# two threads each would wait for each other most of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A time limit for each example would be a timed test, and machines are shared.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

_MARK = "PYTEST_RUN_OF_FTPIPE"
_PYTHONS_OWN = ("resource_tracker", "forkserver")
"""Helpers of ``multiprocessing``, which end with the process that started them."""
_PATIENCE = 10.0
"""Seconds in which a process that was told to end has to be gone."""
_FOREIGN = ("OPENAI_", "AZURE_OPENAI_", "NEBIUS_", "FTPIPE_")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test by the name of the package that it needs and that is not installed."""
    for mark in item.iter_markers("needs"):
        for package in mark.args:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"the package {package} is not installed")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point ftpipe's home and the working folder to a fresh place, and clear every key and setting."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        monkeypatch.delenv(name)
    place = tmp_path_factory.mktemp("place")
    monkeypatch.setenv("FTPIPE_HOME", str(place / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    work = place / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> None:
    """Hear SIGHUP again where the tests themselves run under ``nohup``, whose deafness their children would inherit."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def nothing_left_behind() -> Iterator[None]:
    """When all tests of this process are done, no process that they started runs, and no folder of theirs is there."""
    mark = uuid.uuid4().hex
    os.environ[_MARK] = mark
    yield
    deadline = time.monotonic() + _PATIENCE
    while (running := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    places = {Path(tempfile.gettempdir()), Path("/dev/shm")}
    folders = [str(found) for place in places for found in place.glob(f"ftpipe-*-{os.getpid()}-*")]
    assert (running, folders) == ([], [])


def _marked(mark: str) -> list[str]:
    """The processes that carry the mark in their environment, wherever they were detached to."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                line = " ".join(process.cmdline())
                found += [] if any(name in line for name in _PYTHONS_OWN) or not line else [line[:200]]
    return found


def pytest_xdist_auto_num_workers() -> int:
    """Half as many workers again as there are processors: a third of the time tests wait for processes and sockets."""
    return (os.cpu_count() or 1) * 3 // 2
