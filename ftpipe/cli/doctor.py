"""``ftpipe doctor``: a line for everything that ftpipe needs, with what to do where it is not in order."""

from __future__ import annotations

import click

from ftpipe.cli.examine import Finding, examine, examine_online
from ftpipe.cli.group import Command
from ftpipe.cli.session import Session, pass_session
from ftpipe.reports.plain import clean, plural

_MARKS = {"ok": ("ok", "✓"), "warn": ("warning", "!"), "bad": ("error", "✗")}


@click.command(cls=Command, example="ftpipe doctor\nftpipe doctor --online --provider openai")
@click.option("--online", is_flag=True, help="Ask the provider, too: does it answer, does it take the key.")
@click.option("--provider", metavar="NAME", help="Which one to ask; the configured one or local where not given.")
@pass_session
def doctor(session: Session, online: bool, provider: str | None) -> None:
    """Look at everything that ftpipe needs; ends with 1 where something is broken. Nothing is changed."""
    settings = session.settings({"provider": provider})
    found: list[Finding] = []
    for finding in examine(settings, lambda: session.registry(settings)):
        found.append(show(session, finding))
    if online:
        name = settings.config.provider or "local"
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
