"""``python -m ftpipe``: the command line."""

from __future__ import annotations

import sys

READERS = frozenset({"prepare", "validate"})
"""Commands that read whole files, for which it pays to start processes before anything else is imported."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    words = sys.argv[1:]
    if not READERS.isdisjoint(words):
        from ftpipe.dataset.scan.worker_processes import prestart_workers

        prestart_workers(words)
    from ftpipe.cli import run

    run(words)


if __name__ == "__main__":
    main()
