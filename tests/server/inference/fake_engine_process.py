"""An inference process with an engine that does what the last message says; no model and no torch.

Arguments: a folder for files by which a test and the engine talk, and the descriptor.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ftpipe import errors
from ftpipe.errors import FtpipeError
from ftpipe.inference.constrained_decoding import GrammarError
from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.inference.request import ContextLengthError, GenerationRequest, LogitBiasError
from ftpipe.modeling.chat_tokenizer import ChatTemplateError
from ftpipe.server.inference.remote_engine import MAX_AHEAD
from ftpipe.server.inference.worker import LoadedEngine, run

ERRORS: dict[str, type[FtpipeError]] = {
    cls.__name__: cls
    for cls in (
        *(ContextLengthError, ChatTemplateError, GrammarError, LogitBiasError),
        *(errors.NotFoundError, errors.MissingExtraError, errors.LocalStateError, errors.DatasetError),
    )
}


class UnknownToServerError(ContextLengthError):
    """A class that only this process has."""

    code = "only_here"


class Panic(BaseException):
    """What a panic in Rust is in Python: no ``Exception``."""


class FakeEngine:
    """Does what the last message of a conversation says."""

    def __init__(self, folder: Path, on_status: Callable[[str], None], on_loaded: Callable[[], None]) -> None:
        self._folder = folder
        self._on_status = on_status
        self._on_loaded = on_loaded
        self._loaded: list[str] = []
        self._pool = ThreadPoolExecutor()

    def load(self, base: str) -> Future[None]:
        """Load a model; what happens is in its name."""
        return self._pool.submit(self._load, base)

    def _load(self, base: str) -> None:
        self._on_status(f"loading {base}")
        with (self._folder / "loads").open("a") as file:
            file.write(f"{base}\n")
        if base == "endless" or (self._folder / "endless").exists():
            (self._folder / "computing").touch()
            time.sleep(3600)
        if base == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if base == "missing":
            message = "there is no base model 'missing'"
            raise errors.NotFoundError(message, "use another one")
        self._loaded.append(base)
        self._on_loaded()

    def loaded_models(self) -> tuple[str, ...]:
        """What was loaded."""
        return tuple(self._loaded)

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """Answer a request."""
        word, _, argument = str(request.messages[-1]["content"]).partition(" ")
        if word == "raise":
            raise _exception(argument)
        return {"echo": self._echo, "count": self._count, "crash": self._crash}[word](
            f"{base} {adapter} {request!r}", argument, check_cancelled
        )

    def _echo(self, description: str, _argument: str, _check_cancelled: Callable[[], None]) -> Iterator[Delta]:
        token = TokenLogprob("é", -0.5, (TokenLogprob("x", float("-inf")),))
        yield Delta(description, (token,))
        yield Delta("", finish_reason="stop", prompt_tokens=7, completion_tokens=1)

    def _count(self, _description: str, argument: str, check_cancelled: Callable[[], None]) -> Iterator[Delta]:
        """So many numbers; the file ``counted-NAME`` tells how many were computed, and ``closed-NAME`` the end."""
        name, _, limit = argument.partition(" ")
        try:
            for number in range(int(limit)):
                check_cancelled()
                (self._folder / f"counted-{name}").write_text(str(number + 1))
                yield Delta(f"{number} ")
        finally:
            (self._folder / f"closed-{name}").touch()

    def _crash(self, _description: str, argument: str, _check_cancelled: Callable[[], None]) -> Iterator[Delta]:
        """More pieces than are computed before some are taken, so that the first ones have arrived; then a crash."""
        yield from [Delta("last words ")] * 2 * MAX_AHEAD["interactive"]
        if argument == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(3600)  # another thread may be the one that gets the signal


def _exception(name: str) -> BaseException:
    if name == "Panic":
        return Panic("a bug")
    if name in ERRORS:
        return ERRORS[name](f"the message of {name}", f"the hint of {name}")
    if name == "UnknownToServerError":
        return UnknownToServerError("only this process knows the class")
    return ValueError("a bug")


def build(folder: Path) -> Callable[[Callable[[str], None], Callable[[], None]], LoadedEngine]:
    """What ``run`` builds the engine with."""
    return lambda on_status, on_loaded: FakeEngine(folder, on_status, on_loaded)


if __name__ == "__main__":
    run(int(sys.argv[2]), build(Path(sys.argv[1])))
