"""The port through which models are asked, and the memory of what they answered."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from ftpipe.errors import LocalStateError
from ftpipe.records.evaluation import Answer, SamplingParams
from ftpipe.records.keys import ANSWER_SAMPLING_FIELDS, versioned_digest


class ChatClient(Protocol):
    """An endpoint that answers chats; a provider, or a small fake in a test."""

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> Answer:
        """Ask once and wait for the whole answer; raises only children of ``FtpipeError``."""
        ...


@dataclass(frozen=True)
class Request:
    """One thing to ask a model."""

    model: str
    messages: tuple[Mapping[str, Any], ...]
    sampling: SamplingParams
    sample: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    _key: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def seed(self) -> int | None:
        """The seed of this sample, so that samples differ and repeat."""
        return None if self.sampling.seed is None else self.sampling.seed + self.sample

    @property
    def key(self) -> str:
        """Names everything that the answer depends on, the endpoint aside."""
        if not self._key:
            asked = {"model": self.model, "messages": self.messages, "tools": self.tools}
            sampling = ANSWER_SAMPLING_FIELDS.values(self.sampling)
            parts = {**asked, "sampler": sampling, "seed": self.seed, "sample": self.sample}
            self._key.append(versioned_digest("answer/1", parts))
        return self._key[0]


class ResponseCache:
    """Answers that were given already, so that a stopped evaluation goes on where it was.

    Each answer is one appended line; a line that a crash cut short is passed over when the file is read again. Refused
    and failed requests are not remembered.

    Args:
        folder: Where to keep them; ``None`` keeps them for this process only.
        endpoint: Fingerprint of the endpoint; the same model name elsewhere is another model.
    """

    def __init__(self, folder: Path | None = None, *, endpoint: str = "") -> None:
        name = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
        self.path = folder / f"answers-{name}.ndjson" if folder else None
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._needs_newline = False
        if self.path is not None:
            self._load(self.path)

    @property
    def size(self) -> int:
        """Answers that are known."""
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """What was answered before, if anything."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Remember an answer, on disk before this returns.

        Raises:
            LocalStateError: The file cannot be written.
        """
        line = json.dumps({"key": key, "answer": answer.model_dump(mode="json", exclude_defaults=True)}) + "\n"
        with self._lock:
            self._answers[key] = answer
            if self.path is not None:
                self._append(self.path, line)

    def _append(self, path: Path, line: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, flags, 0o600)
            try:
                os.write(descriptor, (("\n" if self._needs_newline else "") + line).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise LocalStateError(
                f"the answers cannot be kept in {path}: {exc.strerror or exc}",
                "free space on the disk or mend the folder's permissions, then run the same command again",
            ) from exc
        self._needs_newline = False

    def _load(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise LocalStateError(
                f"the answers of earlier evaluations cannot be read from {path}: {exc.strerror or exc}",
                "mend its permissions, or move it aside to ask everything anew",
            ) from exc
        self._needs_newline = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = Answer.model_validate(entry["answer"])
            except (ValueError, KeyError, TypeError, ValidationError):
                continue
