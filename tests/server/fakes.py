"""Fakes of what the server gets from elsewhere: the engine, the base models, the validation of a file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from ftpipe.errors import FtpipeError
from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.inference.request import GenerationRequest
from ftpipe.server.jobs.file_validation import ValidationIssue, ValidationIssues, as_job_error
from ftpipe.server.jobs.validation_process import ValidationCrash, ValidationResult
from ftpipe.server.model_resolver import BaseModels
from ftpipe.server.storage import JobRow
from ftpipe.training.job_directory import JobDirectory

FAKE_TRAINER = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))
TINY = "smollm2-135m-instruct"


@dataclass
class FakeEngine:
    """Generates a fixed text word by word, up to the token limit."""

    text: str = "hello there friend"
    requests: list[GenerationRequest] = field(default_factory=list)
    adapters: list[Path | None] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    wait: threading.Event | None = None
    error: FtpipeError | None = None
    loads: dict[str, Future[None]] = field(default_factory=dict)
    before_token: Callable[[], None] = lambda: None
    logprobs_by_seed: dict[int, float] = field(default_factory=dict)
    cached_tokens: int = 0

    def load(self, base: str) -> Future[None]:
        """Every model is loaded at once, unless ``loads`` has a future for it."""
        if base in self.loads:
            return self.loads[base]
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """Answer a request."""
        self.requests.append(request)
        self.adapters.append(adapter)
        if self.error is not None:
            raise self.error
        words = self.text.split(" ")[: request.max_tokens]
        try:
            if request.prompt_logprobs is not None:
                yield Delta("", prompt_logprobs=fake_prompt_tokens(request))
            for index, word in enumerate(words):
                check_cancelled()
                self.before_token()
                text = word if index == 0 else f" {word}"
                value = self.logprobs_by_seed.get(request.seed or 0, -0.5)
                top = TokenLogprob(text, value)
                logprobs = () if request.logprobs is None else (TokenLogprob(text, value, (top,) * request.logprobs),)
                yield Delta(text, logprobs)
                if self.wait is not None:
                    self.wait.wait(0.05)
            reason = "length" if len(words) == request.max_tokens else "stop"
            yield Delta(
                "",
                finish_reason=reason,
                prompt_tokens=7,
                cached_tokens=self.cached_tokens,
                completion_tokens=len(words),
            )
        finally:
            self.closed.set()

    def close(self) -> None:
        """There is nothing to let go of."""


def fake_prompt_tokens(request: GenerationRequest) -> tuple[TokenLogprob, ...]:
    """A token for each word or id of the prompt; each word after the first one is the second most probable."""
    prompt = request.prompt or ""
    texts = prompt.split(" ") if isinstance(prompt, str) else [chr(id_) for id_ in prompt]
    tops = (TokenLogprob("?", -0.25), TokenLogprob("!", -2.0))[: request.prompt_logprobs]
    tokens = [TokenLogprob(text, -1.0 - index, tops if index else ()) for index, text in enumerate(texts)]
    return tuple(tokens)


class FakeBaseModels(BaseModels):
    """Knows one base model, which also serves names that start with ``gpt-``."""

    def __init__(self, *, substitutes: bool = True) -> None:
        super().__init__(Path(), substitutes=substitutes)
        self.substitutes = substitutes

    def is_known(self, name: str) -> bool:
        """True for the one base, and hub ids."""
        return name in (TINY, "org/name")

    def substitute_for(self, name: str) -> str | None:
        """The base model for an OpenAI name."""
        return TINY if self.substitutes and name.startswith("gpt-") else None

    def names(self) -> tuple[str, ...]:
        """What a list shows."""
        return (TINY, "gpt-4o-mini") if self.substitutes else (TINY,)


class FakeValidation:
    """Accepts every line but those with the word ``bad``; ``broken`` in the first line makes the check crash."""

    def __init__(self, job: JobRow, directory: JobDirectory) -> None:
        self._job = job
        self._directory = directory

    def poll(self) -> ValidationResult | ValidationCrash | None:
        """The result, at once."""
        files = [(self._directory.training_file, "training_file")]
        if self._job.validation_file is not None:
            files.append((self._directory.validation_file, "validation_file"))
        for path, param in files:
            lines = path.read_text(encoding="utf-8").splitlines()
            if "broken" in lines[0]:
                return ValidationCrash("it ended with exit code 1")
            faults = [ValidationIssue(f"line {number}: bad") for number, line in enumerate(lines, 1) if "bad" in line]
            if faults:
                return ValidationResult(as_job_error(ValidationIssues(tuple(faults), len(faults)), param))
        return ValidationResult(None)

    def stop(self) -> None:
        """Nothing runs."""
