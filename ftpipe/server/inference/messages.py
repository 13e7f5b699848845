"""Messages between the server and its inference process: dataclasses as JSON, so that new fields travel by themselves.

JSON and not pickle: what the two sides send contains texts of clients and of models, and none of it becomes code.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from ftpipe.errors import FtpipeError
from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import GenerationRequest


class InferenceError(RuntimeError):
    """A bug in the engine or in a library below it; the text is the traceback in the inference process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A request to answer.

    Attributes:
        base: Name of the base model.
        adapter: Folder of the adapter.
        request: The conversation.
        max_ahead: Pieces of the answer that are computed before the first one is taken.
    """

    base: str
    adapter: Path | None
    request: GenerationRequest
    max_ahead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the server wants from the inference process.

    Attributes:
        id: Of the load or the answer that it is about.
        load: Base model to load.
        generate: Request to answer.
        taken: Pieces of an answer that were taken; as many may be computed further.
        cancel: Ends an answer.
    """

    id: int
    load: str | None = None
    generate: Generation | None = None
    taken: int = 0
    cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """An exception.

    Attributes:
        classes: Names of its class and the bases of that, the most specific first.
        message: What happened.
        hint: What to do next.
        code: Stable name of the error.
        retry_after: Seconds to wait before the next attempt.
        details: The traceback, if it is not one of ftpipe's own errors.
    """

    classes: tuple[str, ...] = ()
    message: str = ""
    hint: str = ""
    code: str = ""
    retry_after: float | None = None
    details: str = ""

    @classmethod
    def of(cls, exc: BaseException) -> ErrorInfo:
        """Describe an exception."""
        if not isinstance(exc, FtpipeError):
            return cls(details="".join(traceback.format_exception(exc)))
        return cls(
            classes=tuple(map(_name, type(exc).__mro__)),
            message=exc.message,
            hint=exc.hint,
            code=exc.code,
            retry_after=exc.retry_after,
        )

    def exception(self) -> Exception:
        """The exception; of the same class if this process has imported it, else of the nearest base of it."""
        if self.details:
            return InferenceError(self.details)
        known = {_name(cls): cls for cls in _subclasses(FtpipeError)}
        cls = next((known[name] for name in self.classes if name in known), FtpipeError)
        exc = cls.__new__(cls)
        FtpipeError.__init__(exc, self.message, self.hint)
        exc.retry_after = self.retry_after
        vars(exc)["code"] = self.code
        return exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What the inference process says.

    Attributes:
        id: Of the load or the answer that it is about; 0 for none.
        delta: The next piece of an answer.
        error: Why a load or an answer ended.
        is_last: A load or an answer has ended.
        status: Line for the log.
        loaded: Base models in memory, when they change.
    """

    id: int = 0
    delta: Delta | None = None
    error: ErrorInfo | None = None
    is_last: bool = False
    status: str = ""
    loaded: tuple[str, ...] | None = None


_CONFIG = ConfigDict(ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64")
_COMMANDS = TypeAdapter(list[Command], config=_CONFIG)
_EVENTS = TypeAdapter(list[Event], config=_CONFIG)


def encode_command(command: Command) -> bytes:
    """A message to the inference process."""
    return _COMMANDS.dump_json([command], exclude_defaults=True)


def decode_command(message: bytes) -> Command:
    """The command of a message."""
    return _COMMANDS.validate_json(message)[0]


def encode_events(events: list[Event]) -> bytes:
    """A message to the server."""
    return _EVENTS.dump_json(events, exclude_defaults=True)


def decode_events(message: bytes) -> list[Event]:
    """The events of a message."""
    return _EVENTS.validate_json(message)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _subclasses(cls: type[FtpipeError]) -> Iterator[type[FtpipeError]]:
    yield cls
    for subclass in cls.__subclasses__():
        if subclass.__module__ in sys.modules:
            yield from _subclasses(subclass)
