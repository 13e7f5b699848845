"""``python -m tests.benchmarks.fuzz_description [cases] [seed]``: requests from ``/openapi.json``, by schemathesis.

The server is a process with two keys, a fake engine and a fake trainer, and has the rows that tests of OpenAI's SDK
name. An answer is an error if it is a 5xx, does not fit the description, comes without a key, or takes longer than ten
seconds. Prints the report of schemathesis; the exit code is that of its last run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.server.contract.seed import Seeder
from tests.server.processes import ServerProcess

KEYS = ("local:sk-local-0123456789", "ben:sk-ben-01234567890")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
)
PHASES = "examples,coverage,fuzzing,stateful"
REQUEST_SECONDS = 10
MAX_EXAMPLES = 40
"""Of each operation in one run; a further run has another seed."""


@dataclass(frozen=True)
class DescriptionRun:
    """One run of schemathesis."""

    code: int
    cases: int
    operations: int
    report: str


def run_schemathesis(
    folder: Path,
    options: list[str],
    *,
    description: Path | None = None,
    keys: tuple[str, ...] = (),
    timeout: float | None = None,
) -> DescriptionRun:
    """Start a server, fill it, and send it requests from a description.

    Args:
        folder: An empty folder.
        options: Options of ``schemathesis run``.
        description: A file; the server's own description unless given.
        keys: Lines of the server's file of keys; none means a server without keys.
        timeout: Seconds after which schemathesis is killed.
    """
    data_dir = folder / "data"
    data_dir.mkdir()
    settings = {}
    if keys:
        key_file = folder / "keys"
        key_file.write_text("\n".join(keys))
        key_file.chmod(0o600)
        settings["api_key_file"] = str(key_file)
    server = ServerProcess(data_dir, **settings)
    try:
        server.start()
        Seeder(data_dir).plant()
        url = server.note["base_url"]
        source = (
            [url.removesuffix("/v1") + "/openapi.json"] if description is None else [str(description), "--url", url]
        )
        command = [sys.executable, "-m", "schemathesis.cli", "run", *source, *options]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=timeout, check=False)
    finally:
        server.stop()
    cases = re.search(r"([\d,]+) generated", ran.stdout)
    operations = re.search(r"Tested: (\d+)", ran.stdout)
    return DescriptionRun(
        ran.returncode,
        int(cases[1].replace(",", "")) if cases else 0,
        int(operations[1]) if operations else 0,
        ran.stdout + ran.stderr,
    )


def fuzz(
    folder: Path, *, max_examples: int, seed: int, phases: str = PHASES, timeout: float | None = None
) -> DescriptionRun:
    """Send a server with keys requests from its own description."""
    options = ["--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", str(max_examples)]
    options += ["--seed", str(seed), "--header", f"Authorization: Bearer {KEYS[0].partition(':')[2]}"]
    options += ["--request-timeout", str(REQUEST_SECONDS), "--continue-on-failure", "--max-failures", "100"]
    return run_schemathesis(folder, options, keys=KEYS, timeout=timeout)


def main(cases: int = 5_000, seed: int = 1) -> int:
    """Run until there were enough cases, or one has failed."""
    total = 0
    while total < cases:
        with tempfile.TemporaryDirectory(prefix="ftpipe-fuzz-") as folder:
            ran = fuzz(Path(folder), max_examples=MAX_EXAMPLES, seed=seed)
        total, seed = total + ran.cases, seed + 1
        sys.stdout.write(f"{ran.report}\n{total:,} cases over {ran.operations} operations\n")
        if ran.code or not ran.cases:
            return ran.code or 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
