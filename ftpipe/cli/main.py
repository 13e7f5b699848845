"""Run a command line: exceptions become exit codes, a message of at most three lines or a JSON document; signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from ftpipe.cli.context import CliContext
from ftpipe.errors import (
    FtpipeError,
    InternalError,
    InterruptedRunError,
    LocalStateError,
    MissingExtraError,
    StillRunningError,
    UsageError,
)

STILL_RUNNING = StillRunningError.exit_code
BROKEN_PIPE = 141
"""Exit code that a shell reports for a program ended by SIGPIPE."""
_EXTRAS = {
    "torch": "local",
    "transformers": "local",
    "peft": "local",
    "safetensors": "local",
    "gguf": "local",
    "starlette": "local",
    "uvicorn": "local",
    "multipart": "local",
    "python_multipart": "local",
    "psycopg": "postgres",
}


def execute(root: click.Group, argv: Sequence[str], context: CliContext | None = None) -> int:
    """Run one command line and return its exit code. Under ``--json`` only the JSON document goes to stdout.

    Args:
        root: The outermost group.
        argv: Arguments without the program name.
        context: Passed to the commands; a new one by default.
    """
    context = context or CliContext()
    words = list(argv[: argv.index("--")] if "--" in argv else argv)
    context.json = context.json or "--json" in words
    context.debug = "--debug" in words
    _replace_unencodable_output()
    try:
        code = _run(root, list(argv), context)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    finally:
        context.close()
    return code


def _run(root: click.Group, argv: list[str], context: CliContext) -> int:
    error: FtpipeError | None = None
    try:
        with root.make_context("ftpipe", argv, obj=context) as ctx:
            root.invoke(ctx)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (Exception, KeyboardInterrupt) as raised:  # the only place where exceptions become exit codes
        if isinstance(raised, BrokenPipeError):
            raise
        error = to_ftpipe_error(raised)
        if context.debug:
            _trace(raised, context)
        _report(error, context)
    if context.json and (context.fields or error):
        from ftpipe.reports.json_output import dump, envelope

        document = envelope(context.command, context.fields, error, ok=context.exit_code in (0, STILL_RUNNING))
        click.echo(context.redact(dump(document)))
    return context.exit_code if error is None else error.exit_code


def _trace(raised: BaseException, context: CliContext) -> None:
    import traceback

    from ftpipe.formatting import sanitize_block

    click.echo(context.redact(sanitize_block("".join(traceback.format_exception(raised)))), err=True)


def to_ftpipe_error(raised: BaseException) -> FtpipeError:
    """Convert any exception to an :class:`FtpipeError`."""
    if isinstance(raised, FtpipeError):
        return raised
    if isinstance(raised, KeyboardInterrupt | click.Abort | EOFError):
        return InterruptedRunError("interrupted")
    if isinstance(raised, click.ClickException):
        return _usage(raised)
    if isinstance(raised, ModuleNotFoundError) and (name := (raised.name or "").partition(".")[0]) in _EXTRAS:
        return MissingExtraError(f"{name} is not installed", f"pip install 'ftpipe[{_EXTRAS[name]}]'")
    if isinstance(raised, ModuleNotFoundError) and name and name != "ftpipe":
        return MissingExtraError(f"{name} is not installed", "pip install --force-reinstall ftpipe")
    if isinstance(raised, OSError):
        path = f"{raised.filename}: " if raised.filename else ""
        return LocalStateError(
            f"{path}{raised.strerror or raised}", "check the path, its permissions and the free space"
        )
    resume = "".join(f"; then continue with {note}" for note in getattr(raised, "__notes__", ()))
    return InternalError(
        f"internal error: {type(raised).__name__}: {raised} (this is a bug in ftpipe)",
        f"run it again with --debug and report the output{resume}",
    )


def _usage(raised: click.ClickException) -> UsageError:
    message = raised.format_message().strip().rstrip(".")
    ctx = raised.ctx if isinstance(raised, click.UsageError) else None
    if isinstance(raised, click.NoSuchOption):
        from ftpipe.suggestions import nearest_option

        options = [] if ctx is None else [one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option)]
        nearest = nearest_option(raised.option_name, [name for one in options if not one.hidden for name in one.opts])
        message = f"there is no option {raised.option_name}" + (f"; did you mean {nearest}?" if nearest else "")
    return UsageError(message, f"see `{ctx.command_path if ctx else 'ftpipe'} --help`")


def _report(error: FtpipeError, context: CliContext) -> None:
    from ftpipe.formatting import sanitize_line

    is_interrupt = isinstance(error, InterruptedRunError)
    if is_interrupt:
        _answered.set()
    label = context.style_err("warning", "stopped:") if is_interrupt else context.style_err("error", "error:")
    if is_interrupt and sys.stderr.isatty():
        click.echo(err=True)  # the terminal has written ^C
    lines = [f"{label} {sanitize_line(error.message, 600)}"]
    if error.hint:
        lines.append(f"{context.style_err('dim', '  next:')} {sanitize_line(error.hint, 400)}")
    context.print_always(lines)


def _replace_unencodable_output() -> None:
    """Replace characters that the terminal cannot show, so that they raise no UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


RAISE_AGAIN_SECONDS = 0.01
"""How long after Python dropped a signal's exception it is raised again: outside the finalizer that dropped it."""
ANSWER_SECONDS = 0.7
"""After so long without an answer to Ctrl-C the user is told that it was seen."""
_interrupts = 0
_answered = threading.Event()
"""Ctrl-C was reported to the user."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _interrupts
    _interrupts += 1
    if _interrupts > 1:
        _exit_at_once()
    raise KeyboardInterrupt


def _exit_at_once() -> NoReturn:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")
    os._exit(InterruptedRunError.exit_code)


def _watch_interrupts(pipe: int) -> None:
    """Answer Ctrl-C if the main thread does not: it may be in a library that returns only when its work is done."""
    seen = 0
    while number := os.read(pipe, 1):
        if number[0] != signal.SIGINT or signal.getsignal(signal.SIGINT) is not _interrupt:
            continue
        seen += 1
        if seen == 1 and not _answered.wait(ANSWER_SECONDS):
            os.write(2, b"\nstopping as soon as the current step ends; Ctrl-C again stops at once\n")
        elif seen > 1 and not _answered.wait(ANSWER_SECONDS):
            _exit_at_once()


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise a signal's exception again if Python dropped it.

    The exception is raised wherever the program is. In a finalizer or a weakref callback Python drops it, and the
    command would go on as if there had been no signal.
    """
    if not isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
        sys.__unraisablehook__(unraisable)
        return
    exception = unraisable.exc_value

    def raise_exception(_number: int, _frame: FrameType | None) -> NoReturn:
        raise exception

    signal.signal(signal.SIGALRM, raise_exception)
    signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_SECONDS)


def install_signals() -> None:
    """Ctrl-C raises KeyboardInterrupt, a second one exits at once; SIGTERM and SIGHUP exit with 128 + number."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:
        signal.signal(hangup, _terminate)
    if hasattr(signal, "setitimer"):
        sys.unraisablehook = _raise_again
    if os.name == "nt":  # there, only sockets can be written to by a signal
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_watch_interrupts, args=(receiver,), daemon=True, name="interrupts").start()


def leave(code: int) -> NoReturn:
    """Exit; after Ctrl-C at once, without waiting for threads of a library, for example for the rest of a download."""
    if code == InterruptedRunError.exit_code:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
