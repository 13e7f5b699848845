"""For every test: its own home and working folder, no keys from outside, and no process or folder left behind."""

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

from tests.examples import IS_FULL, examples
from tests.faults.fork_server import ForkServer

# Processes that tests start may write compiled modules, as those of users do. Several test workers with several threads
# each would slow each other down.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A time limit for each example would fail on a busy machine.
settings.register_profile("shared", deadline=None, max_examples=examples(30, 100))
settings.load_profile("shared")

RUN_VARIABLE = "PYTEST_RUN_OF_FTPIPE"
"""Environment variable that marks the processes of one test run."""
WITHOUT_SLOW_VARIABLE = "PYTEST_WITHOUT_SLOW_TESTS_OF_FTPIPE"
"""Environment variable that tells the workers of a test run to leave out slow tests."""
MULTIPROCESSING_HELPERS = ("resource_tracker", "forkserver")
"""They end with the process that started them."""
MAX_EXIT_SECONDS = 60.0
"""How long a process may take to end after it was stopped."""
CLEARED_PREFIXES = (
    *("OPENAI_", "AZURE_OPENAI_", "NEBIUS_", "TOGETHER_", "FIREWORKS_", "BEDROCK_", "AWS_BEARER_TOKEN_"),
    "FTPIPE_",
)


def pytest_configure(config: pytest.Config) -> None:
    """Leave out slow tests if the whole suite is run as a user runs it; its workers see that in the environment."""
    is_selection = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.keyword
    if not hasattr(config, "workerinput") and not IS_FULL and not is_selection and not config.option.markexpr:
        os.environ[WITHOUT_SLOW_VARIABLE] = "yes"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests."""
    if WITHOUT_SLOW_VARIABLE in os.environ:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that there are more tests."""
    if WITHOUT_SLOW_VARIABLE in os.environ:
        terminalreporter.write_line("without the slow tests; FTPIPE_TEST_EXAMPLES=full runs them, too")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs a package that is not installed, and name the package."""
    for mark in item.iter_markers("needs"):
        for package in mark.args:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"the package {package} is not installed")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set ftpipe's home and the working folder to new folders, and clear every key and setting."""
    for name in [name for name in os.environ if name.startswith(CLEARED_PREFIXES)]:
        monkeypatch.delenv(name)
    root = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("FTPIPE_HOME", str(root / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    work = root / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    """One process to fork from."""
    with ForkServer() as ready:
        yield ready


@pytest.fixture(autouse=True, scope="session")
def default_sighup() -> None:
    """Reset SIGHUP: under ``nohup`` it is ignored, and the processes that tests start would inherit that."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def no_leftovers() -> Iterator[None]:
    """After the last test of this process, check that no process and no folder of the tests is left."""
    run_id = uuid.uuid4().hex
    os.environ[RUN_VARIABLE] = run_id
    yield
    deadline = time.monotonic() + MAX_EXIT_SECONDS
    while (running := _processes_of(run_id)) and time.monotonic() < deadline:
        time.sleep(0.2)
    parents = {Path(tempfile.gettempdir()), Path("/dev/shm")}
    folders = [str(path) for parent in parents for path in parent.glob(f"ftpipe-*-{os.getpid()}-*")]
    assert (running, folders) == ([], [])


def _processes_of(run_id: str) -> list[str]:
    """Command lines of the processes with this run's id in their environment, detached ones included."""
    commands = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run_id:
                line = " ".join(process.cmdline())
                commands += [] if any(name in line for name in MULTIPROCESSING_HELPERS) or not line else [line[:200]]
    return commands


def pytest_xdist_auto_num_workers() -> int:
    """1.5 workers per processor: tests wait for processes and sockets a third of the time."""
    return (os.cpu_count() or 1) * 3 // 2
