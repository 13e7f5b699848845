"""Lets a ``python`` grader score answers, in a process of its own with limits.

Source: OpenAI's guide to graders, "Python graders", read 2026-11-29: a function ``grade(sample, item)`` that returns a
number; an exception, or something that is no number, is an error and counts as 0.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from ftpipe.errors import FtpipeError
from ftpipe.grading import sandboxed_python

MAX_LOAD_SECONDS = 60.0
"""How long a source may take to be loaded, with the packages that it imports."""
MAX_SECONDS = 10.0
"""How long a grader may take for one answer."""
MAX_CPU_SECONDS = 600
"""Of processor time for all answers of one step; the process ends with it, and another one continues."""
MAX_MEMORY_BYTES = 2 * 1024**3
"""Of address space."""
MAX_ENDED_PROCESSES = 3
"""Processes of one step that may end or be killed; after that the answers that are left get the last one's error."""
MAX_REPLY_BYTES = 64 * 1024
POLL_SECONDS = 0.1
RUNTIME_ERROR = "python_grader_runtime_error"
"""Source: OpenAI API description, RunGraderResponse, 2026-08-21."""
OPTION = "--allow-python-graders"
"""The option of ``ftpipe serve`` without which no source is run."""


RunPython = Callable[[str, Sequence[Mapping[str, Any]], Callable[[], None]], Sequence["PythonResult"]]
"""Calls the function of a source for each answer; see ``run_python``."""


class SandboxError(FtpipeError):
    """This system cannot run a grader's source without risk, or the source cannot be run."""

    code = "grader_error"


@dataclass(frozen=True)
class PythonResult:
    """What a grader returned for an answer; ``error`` is why there is no score."""

    score: float = 0.0
    error: str = ""


def run_python(
    source: str, calls: Sequence[Mapping[str, Any]], check_cancelled: Callable[[], None] = lambda: None
) -> list[PythonResult]:
    """The results of a grader's source for answers.

    Args:
        source: Defines ``grade(sample, item)``.
        calls: ``sample`` and ``item`` of each answer.
        check_cancelled: Called while it waits; an error that it raises ends the process.

    Raises:
        SandboxError: The system cannot limit a process, or the source has no function ``grade``.
    """
    results: list[PythonResult] = []
    error = ""
    for _ in range(MAX_ENDED_PROCESSES):
        error = _run(source, calls[len(results) :], results, check_cancelled)
        if len(results) < len(calls):
            results.append(PythonResult(error=error))
        if len(results) == len(calls):
            return results
    return [*results, *[PythonResult(error=error)] * (len(calls) - len(results))]


def _run(
    source: str,
    calls: Sequence[Mapping[str, Any]],
    results: list[PythonResult],
    check_cancelled: Callable[[], None],
) -> str:
    """Add results until one is missing; returns why it is."""
    with _process(source, calls) as process:
        replies = _replies(process, check_cancelled)
        first = next(replies)
        if "unavailable" in first:
            hint = "leave python graders out, or run the server on Linux with Landlock and libseccomp"
            raise SandboxError(f"python graders cannot be run on this system: {first['unavailable']}", hint)
        if "invalid" in first:
            raise SandboxError(f"the source of the grader cannot be run: {first['invalid']}", "correct the source")
        if "ready" not in first:
            raise SandboxError(f"the source of the grader cannot be run: {first.get('ended')}", "correct the source")
        for _ in calls:
            reply = next(replies)
            if "ended" in reply:
                return str(reply["ended"])
            results.append(_result(reply))
    return ""


def _result(reply: Mapping[str, Any]) -> PythonResult:
    score = reply.get("score")
    if isinstance(score, float) and math.isfinite(score):
        return PythonResult(score)
    return PythonResult(error=str(reply.get("error") or f"it returned {score}, which is not a finite number"))


@contextmanager
def _process(source: str, calls: Sequence[Mapping[str, Any]]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all that it reads in a file: nothing waits until it has read."""
    with tempfile.TemporaryFile() as lines:
        for value in (source, *calls):
            lines.write(json.dumps(value).encode() + b"\n")
        lines.seek(0)
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-B", str(Path(sandboxed_python.__file__))),
                *(str(MAX_MEMORY_BYTES), str(MAX_CPU_SECONDS)),
            ],
            stdin=lines,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _replies(process: subprocess.Popen[bytes], check_cancelled: Callable[[], None]) -> Iterator[Mapping[str, Any]]:
    """The lines of a process; the last one says why there are no more."""
    handle, buffer = cast("IO[bytes]", process.stdout).fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        for max_seconds in itertools.chain([MAX_LOAD_SECONDS], itertools.repeat(MAX_SECONDS)):
            deadline = time.monotonic() + max_seconds
            while b"\n" not in buffer:
                check_cancelled()
                if time.monotonic() > deadline:
                    yield {"ended": f"it took longer than {max_seconds:g} seconds"}
                    return
                if not selector.select(POLL_SECONDS):
                    continue
                piece = os.read(handle, MAX_REPLY_BYTES)
                buffer += piece
                if not piece or len(buffer) > MAX_REPLY_BYTES:
                    yield {"ended": _how_it_ended(process) if not piece else "its reply is too long"}
                    return
            line, _, buffer = buffer.partition(b"\n")
            yield _parse(line)


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"


def _parse(line: bytes) -> Mapping[str, Any]:
    """A line that the source can have written itself."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"error": "its reply is not what was expected"}


@cache
def require_sandbox() -> None:
    """Refuse to run sources on a system that cannot limit them; tried once.

    Raises:
        SandboxError: It cannot.
    """
    run_python("def grade(sample, item):\n    return 1.0\n", [])
