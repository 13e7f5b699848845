"""``python -m ftpipe``: the command line."""

from __future__ import annotations

import sys

SCANNING_COMMANDS = frozenset({"prepare", "validate"})
"""Commands that scan whole files: worker processes are started before anything else is imported, to save time."""


def main() -> None:
    """Run the command line and exit with its exit code."""
    argv = sys.argv[1:]
    if not SCANNING_COMMANDS.isdisjoint(argv):
        from ftpipe.dataset.scan.worker_processes import prestart_workers

        prestart_workers(argv)
    from ftpipe.cli import run

    run(argv)


if __name__ == "__main__":
    main()
