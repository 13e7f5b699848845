"""``python -m tests.benchmarks.fuzz_reader [-max_total_time=60]``: an atheris fuzz target for reader, rules and fixes.

Whatever the bytes, validating, counting and fixing may only end in a report or an error of ftpipe's own tree.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # it carries no stubs

with atheris.instrument_imports(include=["ftpipe.dataset"]):
    from ftpipe.dataset.fixes import fix_file
    from ftpipe.errors import FtpipeError
    from ftpipe.stages.count import count
    from ftpipe.stages.validate import validate

FOLDER = Path(tempfile.mkdtemp(prefix="ftpipe-fuzz-"))
METHODS = (None, "supervised", "dpo", "reinforcement")


def one_input(data: bytes) -> None:
    """Check, count and fix one file of these bytes; the first byte chooses method and target."""
    choice = data[0] if data else 0
    path = FOLDER / "input.jsonl"
    path.write_bytes(data[1:])
    with contextlib.suppress(FtpipeError):
        report = validate(path, method=METHODS[choice % 4], target="local" if choice & 4 else "openai")
        count(report, model="gpt-4.1-mini")
        fix_file(path, FOLDER / "fixed.jsonl", unsafe=bool(choice & 8))


def main() -> None:
    """Fuzz until ``-max_total_time`` is over."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
