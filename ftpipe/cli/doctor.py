"""``ftpipe doctor``: a line for everything that ftpipe needs, with what to do where it is not in order."""

from __future__ import annotations

from pathlib import Path

import click

from ftpipe.cli.asked import FREE
from ftpipe.cli.examine import Finding, examine
from ftpipe.cli.examine_online import examine_online
from ftpipe.cli.group import Command
from ftpipe.cli.session import Session, pass_session
from ftpipe.config import Settings
from ftpipe.errors import FtpipeError, StateError, UsageError
from ftpipe.paths import state_dir
from ftpipe.plain import clean, plural

_MARKS = {"ok": ("ok", "✓"), "warn": ("warning", "!"), "bad": ("error", "✗")}


@click.command(cls=Command, example="ftpipe doctor\nftpipe doctor --online --provider openai")
@click.option("--online", is_flag=True, help="Ask the provider, too: does it answer, does it take the key.")
@click.option("--provider", metavar="NAME", help="Which one to ask; the configured one or local where not given.")
@click.option(
    "--repair", is_flag=True, help="Move a damaged registry aside; rebuild it from its copy and the provider's jobs."
)
@pass_session
def doctor(session: Session, online: bool, provider: str | None, repair: bool) -> None:
    """Look at everything that ftpipe needs; ends with 1 where something is broken.

    Nothing is changed, but by --repair, and nothing is ever deleted.
    """
    settings = session.settings({"provider": provider})
    if repair:
        mend(session, settings)
    found: list[Finding] = []
    for finding in examine(settings, lambda: session.registry(settings)):
        found.append(show(session, finding))
    if online:
        name = settings.config.provider or FREE
        found += [show(session, finding) for finding in examine_online(settings, name, session.environment())]
    session.add(checks=[vars(finding) for finding in found])
    bad = sum(finding.state == "bad" for finding in found)
    session.exit_code = 1 if bad else 0
    session.add(broken=bad)
    warned = sum(finding.state == "warn" for finding in found)
    verdict = f"{plural(bad, 'thing is', 'things are')} broken" if bad else "nothing is broken"
    session.say(f"\n{verdict}" + (f", {plural(warned, 'warning')}" if warned else ""))


def show(session: Session, finding: Finding) -> Finding:
    """Write one line, and under it what to do."""
    style, mark = _MARKS[finding.state]
    session.out(f"{session.paint(style, mark)} {finding.name:<10} {clean(session.hide(finding.text), 300)}")
    if finding.hint:
        session.out(f"  {'':<10} {session.paint('dim', '→ ' + clean(finding.hint, 300))}")
    return finding


def mend(session: Session, settings: Settings) -> None:
    """Move the registry aside if it is damaged; take what its copy tells and the provider lists into a new one.

    Raises:
        UsageError: The registry is a database server's, which has its own tools.
    """
    from ftpipe.doctor import move_aside, rebuild, verify

    named = settings.config.registry or str(state_dir() / "registry.db")
    if "://" in named and not named.startswith("sqlite:///"):
        raise UsageError("the registry is on a database server", "restore it with the server's own tools")
    path = Path(named.removeprefix("sqlite:///"))
    try:
        verify(session.registry(settings))
    except StateError as error:
        session.say(clean(error.message, 300))
        aside = move_aside(path)
        session.add(moved_to=aside)
        session.say(f"moved it to {clean(aside, 300)}")
    name = settings.config.provider or FREE
    try:
        providers = [session.provider(name, settings)]
    except FtpipeError as error:  # without a key the rest of the repair is still worth having
        session.say(f"{name} is not asked: {clean(error.message, 300)}")
        providers = []
    runs = rebuild(session.registry(settings), providers, say=lambda text: session.say(clean(text, 300)))
    session.add(adopted=[run.id for run in runs])
    session.say(f"{plural(len(runs), 'job')} of {name} in the registry\n")
