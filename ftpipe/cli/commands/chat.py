"""``ftpipe chat``: one answer, or a conversation on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import sanitize_block
from ftpipe.records import Model
from ftpipe.registry import Registry

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

Messages = list[dict[str, Any]]


@click.command(cls=Command, example="ftpipe chat support-bot@production -m 'My parcel is late.'")
@click.argument("model", required=False)
@click.option("-m", "--message", metavar="TEXT", help="Ask this and stop; else stdin, or a conversation on a terminal.")
@click.option(
    "--system", metavar="TEXT", help="System message; that of the training data where not given, none for an empty one."
)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0 is the likeliest.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer.")
@click.option("--provider", metavar="NAME", help="Where the model answers, if the registry does not know it.")
@pass_cli_context
def chat(context: CliContext, /, model: str | None, message: str | None, system: str | None, **flags: Any) -> None:
    """Talk to MODEL: a registered name, alias or job id, or any model of the provider; the newest where not given.

    A tuned model knows its task by the system message that it was trained with, so that one is used by default.
    """
    provider, name, trained = find(context, model, flags.pop("provider"))
    sampling = {key: value for key, value in flags.items() if value is not None}
    system = trained if system is None else system
    opening: Messages = [{"role": "system", "content": system}] if system else []
    if message is None and sys.stdin.isatty() and not context.json:
        converse(context, provider, name, opening, sampling)
        return
    text = message if message is not None else sys.stdin.read().strip()
    if not text:
        raise UsageError("there is no message to send", "ftpipe chat MODEL -m TEXT")
    asked = [*opening, {"role": "user", "content": text}]
    context.add(model=name, answer=answer(context, provider, name, asked, sampling))


def find(context: CliContext, model: str | None, where: str | None) -> tuple[Provider, str, str]:
    """The endpoint, the model's own name there, and the system message that it was trained with.

    Raises:
        UsageError: No model was named, and none is registered.
    """
    settings = context.settings({"provider": where})
    registry = context.registry(settings)
    try:
        known = registry.models.get(model) if model else next(iter(registry.models.recent(1)), None)
    except UsageError:
        known = None
    if known is None and model is None:
        raise UsageError(f"no model is registered in {registry.location}", "ftpipe train makes one; or name a model")
    name = str(model) if known is None or (model in {c.model for c in known.checkpoints}) else known.id
    default = known.provider if known else settings.config.provider or LOCAL_PROVIDER
    trained = trained_system(registry, known) if known else ""
    return context.provider(where or default, settings), name, trained


def trained_system(registry: Registry, model: Model) -> str:
    """The system message of the first training record; empty where there is none, or the file is gone."""
    from ftpipe.dataset import iter_records

    run = registry.runs.find(model.job_id)
    if run is None or not run.spec.data.is_file():
        return ""
    _, record = next(iter_records(run.spec.data), (0, {}))
    messages = record.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, dict) or first.get("role") != "system":
        return ""
    content = first.get("content")
    return content if isinstance(content, str) else ""


def answer(context: CliContext, provider: Provider, name: str, asked: Messages, sampling: dict[str, Any]) -> str:
    """Stream one answer to stdout, made safe for the terminal, and return it as it came."""
    pieces: list[str] = []
    context.interrupt_message = "interrupted; the answer is not complete"
    for piece in _stream(provider, name, asked, sampling):
        pieces.append(piece)
        if not context.json:
            click.echo(context.redact(sanitize_block(piece)), nl=False)
    context.print_result("")
    return "".join(pieces)


def _stream(provider: Provider, name: str, asked: Messages, sampling: dict[str, Any]) -> Iterator[str]:
    return provider.models.stream(name, asked, **sampling)


def converse(context: CliContext, provider: Provider, name: str, opening: Messages, sampling: dict[str, Any]) -> None:
    """Questions and answers until Ctrl-D; Ctrl-C stops an answer, and twice leaves."""
    context.print_status(
        f"{context.style_err('dim', f'talking to {sanitize_block(name)}; an empty line or Ctrl-D ends it')}"
    )
    said = list(opening)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            context.print_status("")
            return
        if not text:
            return
        said.append({"role": "user", "content": text})
        said.append({"role": "assistant", "content": answer(context, provider, name, said, sampling)})
