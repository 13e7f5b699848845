"""Run real clients of the OpenAI API against the server, and print a table of what works, with versions.

Usage: ``python -m tests.clients [--install FOLDER] [NAME[:CHECK] ...]``

The server is ``ftpipe serve`` with a base model of some thousand random parameters: its texts mean nothing, but
structured answers and forced calls are right all the same, because they are constrained. With ``--install`` each client
gets an environment of its own below a folder, from PyPI or npm; without it, the clients of this Python and of
``tests/clients/node`` are used, as far as they are installed. The exit code is 1 if a check fails, or if a client below
the folder of ``--install`` has run none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.clients.programs import CHECKS, CLIENTS, Outcome, command_of, install, run_program
from tests.clients.server import ClientServer


def table(outcomes: list[Outcome]) -> str:
    """The results as a table in Markdown, in which only the checks that a client has are filled in."""
    columns = [check for check in CHECKS if any(check in outcome.results for outcome in outcomes)]
    lines = [
        f"| client | version | {' | '.join(check.replace('_', ' ') for check in columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for outcome in outcomes:
        versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items()) or "not installed"
        cells = ["" if check not in outcome.results else "✗" if outcome.results[check] else "✓" for check in columns]
        lines.append(f"| {outcome.client.title} | {versions} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table and the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="install each client below this folder")
    parser.add_argument("names", nargs="*", metavar="NAME[:CHECK]", help=", ".join(client.name for client in CLIENTS))
    arguments = parser.parse_args()
    checks: dict[str, list[str]] = {}
    for word in arguments.names:
        name, _, check = word.partition(":")
        checks.setdefault(name, []).extend([check] if check else [])
    if unknown := checks.keys() - {client.name for client in CLIENTS}:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    if unknown := {check for names in checks.values() for check in names} - set(CHECKS):
        parser.error(f"no such check: {', '.join(sorted(unknown))}; the checks are {', '.join(CHECKS)}")
    clients = [client for client in CLIENTS if not checks or client.name in checks]
    environments: Path | None = None
    if arguments.install is not None:
        environments = arguments.install.absolute()
        environments.mkdir(parents=True, exist_ok=True)
        for client in clients:
            install(client, environments)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder, ClientServer(Path(folder) / "server") as server:
        for client in clients:
            work_folder = Path(folder) / "work" / client.name
            outcome = run_program(
                client, command_of(client, environments), server, work_folder, checks.get(client.name, [])
            )
            outcomes.append(outcome)
            show_errors(outcome)
    sys.stdout.write(f"\n{table(outcomes)}")
    expected = outcomes if environments is not None else [outcome for outcome in outcomes if outcome.versions]
    sys.exit(any(not outcome.is_passed for outcome in expected))


def show_errors(outcome: Outcome) -> None:
    """Print what has failed, and the end of the output of a program that has run no check."""
    sys.stderr.write(f"{outcome.client.title}: {'passed' if outcome.is_passed else 'FAILED'}\n")
    for check, error in outcome.results.items():
        if error:
            sys.stderr.write(f"  {check}: {error}\n")
    if not outcome.results:
        sys.stderr.write(f"{outcome.output[-3000:]}\n")


if __name__ == "__main__":
    main()
