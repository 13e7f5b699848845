"""``ftpipe chat``: one answer, or a conversation on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.errors import NotFoundError, UsageError
from ftpipe.formatting import sanitize_block
from ftpipe.paths import models_dir

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

Messages = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Options of ``ftpipe chat``."""

    model: str | None = None
    message: str | None = None
    system: str | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    provider: str | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling parameters of the requests."""
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"temperature": self.temperature} | limit


@dataclass(frozen=True)
class ChatTarget:
    """A model to talk to."""

    provider: Provider
    model: str
    """Its name at the provider."""
    trained_with: str
    """The system message that it was trained with."""
    hint: str
    """Which registered model the name may stand for, if the registry does not know it."""
    ended: str
    """Says that it was shut down; empty if it was not, as far as the registry knows."""


@click.command(cls=Command, example="ftpipe chat support-bot@production -m 'My parcel is late.'")
@click.argument("model", required=False)
@click.option(
    "-m", "--message", metavar="TEXT", help="Send this message and exit.  [default: stdin, or a conversation]"
)
@click.option("--system", metavar="TEXT", help="System message; '' for none.  [default: the one in the training data]")
@click.option(
    "--temperature",
    type=shared.NumberRange(0, 2),
    metavar="X",
    default=ChatOptions.temperature,
    show_default=True,
    help="Sampling temperature; 0 picks the most likely token.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Maximum completion tokens.")
@click.option("--provider", metavar="NAME", help="Provider of a model that the registry does not know.")
@shared.trust_host
@pass_cli_context
def chat(context: CliContext, /, **params: Any) -> None:
    """Talk to MODEL: a registered name, alias or job id, or any model of the provider.

    Without MODEL the newest registered model is used. A tuned model expects the system message that it was trained
    with, so that one is the default.
    """
    options = ChatOptions(**params)
    target = resolve_model(context, options)
    system = target.trained_with if options.system is None else options.system
    messages: Messages = [{"role": "system", "content": system}] if system else []
    if options.message is None and sys.stdin.isatty() and not context.json:
        converse(context, target, messages, options.sampling)
        return
    text = options.message if options.message is not None else sys.stdin.read().strip()
    if not text:
        raise UsageError("there is no message to send", "run `ftpipe chat MODEL -m TEXT`")
    messages.append({"role": "user", "content": text})
    context.add(model=target.model, answer=stream_answer(context, target, messages, options.sampling))


def resolve_model(context: CliContext, options: ChatOptions) -> ChatTarget:
    """Find the model to talk to.

    Raises:
        UsageError: No model is given, and none is registered.
    """
    settings = context.settings({"provider": options.provider})
    registry = context.registry(settings)
    model, hint = options.model, ""
    try:
        known = registry.models.get(model) if model else next(iter(registry.models.recent(1)), None)
    except UsageError as exc:
        known, hint = None, hint_for_unknown(str(model), exc.hint)
    if known is None and model is None:
        raise UsageError(
            f"no model is registered in {registry.location}", "train one with `ftpipe train`, or give a MODEL"
        )
    from ftpipe.pipeline.chat_target import shutdown_message, trained_system

    name = str(model) if known is None or (model in {c.model for c in known.checkpoints}) else known.id
    default = known.provider if known else settings.config.provider or LOCAL_PROVIDER
    system = trained_system(registry, known) if known else ""
    ended = shutdown_message(known) if known else ""
    return ChatTarget(context.provider(options.provider or default, settings), name, system, hint, ended)


def hint_for_unknown(model: str, hint: str) -> str:
    """The hint for a name that the registry does not know; it may stand for a base model of this machine."""
    from ftpipe.modeling.base_models import installed_bases
    from ftpipe.suggestions import nearest_name

    nearest = "" if "did you mean" in hint else nearest_name(model, installed_bases(models_dir()))
    return f"did you mean {nearest}? {hint}" if nearest else hint


def stream_answer(context: CliContext, target: ChatTarget, messages: Messages, sampling: dict[str, Any]) -> str:
    """Stream one answer to stdout, sanitized for the terminal, and return it unchanged.

    Raises:
        UsageError: Neither the registry nor the provider knows the model.
        NotFoundError: The provider does not know a model of the registry.
        InterruptedRunError: Ctrl-C was pressed.
    """
    pieces: list[str] = []
    with context.interruptible("interrupted; the answer is not complete"):
        for piece in pieces_of(context, target, messages, sampling):
            pieces.append(piece)
            if not context.json:
                click.echo(context.redact(sanitize_block(piece)), nl=False)
    context.print_result("")
    return "".join(pieces)


def pieces_of(context: CliContext, target: ChatTarget, messages: Messages, sampling: dict[str, Any]) -> Iterator[str]:
    """The answer piece by piece; on a terminal a spinner shows that the first one is awaited.

    Raises:
        UsageError: Neither the registry nor the provider knows the model; the hint has a similar name.
        NotFoundError: The provider does not know a model of the registry.
    """
    from ftpipe.cli.output.progress import spinner

    pieces = target.provider.models.stream(target.model, messages, **sampling)
    stream = (piece.text for piece in pieces if piece.text)
    try:
        with spinner(context, "waiting for the answer"):
            first = next(stream, "")
    except NotFoundError as exc:
        if target.hint:
            raise UsageError(exc.message, target.hint) from exc
        if target.ended:
            hint = "`ftpipe models inventory` shows which training files are still there and what training again costs"
            raise NotFoundError(f"{target.ended}: {exc.message}", hint) from exc
        raise
    yield first
    yield from stream


def converse(context: CliContext, target: ChatTarget, messages: Messages, sampling: dict[str, Any]) -> None:
    """Read messages and stream answers until an empty line, Ctrl-D or Ctrl-C."""
    start = f"talking to {sanitize_block(target.model)}; an empty line or Ctrl-D ends the conversation"
    context.print_status(context.style_err("dim", start))
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            context.print_status("")
            return
        if not text:
            return
        messages.append({"role": "user", "content": text})
        answer = stream_answer(context, target, messages, sampling)
        messages.append({"role": "assistant", "content": answer})
