"""What the programs of all Python clients share: where the server is, what they send, and how they report.

A program runs in an environment that has the client and perhaps nothing else, so this needs only the standard library.
It prints a JSON object per line: first the versions, then each check with its result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "CLIENTS_MODEL", "CLIENTS_BASE_FOLDER", "CLIENTS_WORK_FOLDER")
BASE_URL, API_KEY, MODEL = (os.environ.get(name, "") for name in VARIABLES[:3])
"""Where the server is, its key, and the name of its base model."""
BASE_FOLDER, WORK_FOLDER = (Path(os.environ.get(name, "")) for name in VARIABLES[3:])
"""The base model's folder, for clients that tokenize, and a folder for files."""
UNKNOWN_MODEL = "nobody-has-this-model"
QUESTION = "I was charged twice for the same order."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
MAX_TOKENS = 16
MAX_JOB_SECONDS = 300.0
TRAINING_ROWS = [
    {"messages": [{"role": "user", "content": f"ticket {i}"}, {"role": "assistant", "content": ("bug", "bill")[i % 2]}]}
    for i in range(12)
]
SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["billing", "bug"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}
"""A random model can give it only few values, so that an answer ends within a few tokens."""
TOOL: Any = {"type": "function", "function": {"name": "route", "parameters": SCHEMA}}
RESPONSE_FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA, "strict": True}}
QUEUES = ("billing", "bug")
EMBEDDINGS_REFUSAL = "Embeddings are not served"

Check = Callable[[], object]


def run(packages: tuple[str, ...] | Mapping[str, str], *checks: Check) -> None:
    """Run the checks, or those that the command line names, and print the results; exit 1 if one fails.

    Args:
        packages: The packages whose versions are reported, or names with versions.
        checks: The checks; the name of each is that of its function.
    """
    by_name = {check.__name__: check for check in checks}
    versions = packages if isinstance(packages, Mapping) else {package: version(package) for package in packages}
    report({"versions": versions})
    names = sys.argv[1:] or list(by_name)
    is_failed = False
    for name in names:
        started = time.monotonic()
        result = {"check": name, "detail": "", "error": None}
        try:
            result["detail"] = str(by_name[name]() or "")
        except BaseException as exc:  # noqa: BLE001  # clients raise SystemExit, too; the result has the error
            result["error"] = f"{type(exc).__name__}: {exc}"[:2000]
            traceback.print_exc()
            is_failed = True
        report(result | {"seconds": round(time.monotonic() - started, 1)})
    sys.exit(is_failed)


def report(line: Mapping[str, object]) -> None:
    """Print a line for the program that has started this one."""
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def expect(is_true: object, what: object) -> None:
    """Fail with a text, also under ``python -O``."""
    if not is_true:
        raise AssertionError(str(what))


def expect_error(kind: type[BaseException], call: Callable[[], object], *texts: str) -> str:
    """Fail unless a call raises an error of this class whose text has these words; the error's text."""
    try:
        result = call()
    except kind as exc:
        message = f"{exc} {getattr(exc, 'code', '')}"
        for text in texts:
            expect(text in message, f"{text!r} is not in {message}")
        return type(exc).__name__
    raise AssertionError(f"no {kind.__name__}, but {result!r}")


def expect_ticket(value: Mapping[str, object]) -> None:
    """Fail unless a value is one of ``SCHEMA``."""
    expect(value.get("queue") in QUEUES and isinstance(value.get("urgent"), bool), value)


def token_id(text: str) -> int:
    """The id of the base model's token for a character."""
    vocabulary = json.loads((BASE_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return int(vocabulary[text])


def training_file() -> Path:
    """A file with ``TRAINING_ROWS``."""
    path = WORK_FOLDER / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TRAINING_ROWS), encoding="utf-8")
    return path


def wait_until_ended(retrieve: Callable[[], Any]) -> str:
    """Poll a job until it has succeeded; the name of its model."""
    deadline = time.monotonic() + MAX_JOB_SECONDS
    while (job := retrieve()).status != "succeeded":
        expect(job.status in ("validating_files", "queued", "running"), job.status)
        expect(time.monotonic() < deadline, f"still {job.status}")
        time.sleep(0.5)
    return str(job.fine_tuned_model)


def run_module(
    *command: str, variables: Mapping[str, str], timeout_seconds: float, is_failure: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with these words, and fail unless it succeeds or, with ``is_failure``, fails."""
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | dict(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_seconds,
    )
    expect((ran.returncode != 0) == is_failure, ran.stdout[-2000:] + ran.stderr[-4000:])
    return ran
