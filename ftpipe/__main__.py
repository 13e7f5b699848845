"""``python -m ftpipe``: the command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code."""
    from ftpipe.cli import run

    run()


if __name__ == "__main__":
    main()
