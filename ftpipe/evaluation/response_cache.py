"""Chat requests of an evaluation, the client that sends them, and the cache of their answers."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jsonlines
from pydantic import ValidationError

from ftpipe.atomic_files import ends_within_line
from ftpipe.errors import LocalStateError
from ftpipe.records.evaluation import Answer, SamplingParams
from ftpipe.records.idempotency_keys import ANSWER_SAMPLING_FIELDS, versioned_digest


class ChatClient(Protocol):
    """An endpoint that answers chats: a provider, or a fake in a test."""

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
        """Send one request and wait for the whole answer; raises only subclasses of ``FtpipeError``."""
        ...


@dataclass(frozen=True)
class Request:
    """One chat request."""

    model: str
    messages: tuple[Mapping[str, Any], ...]
    sampling: SamplingParams
    sample: int = 0
    """Number of this request among those that sample the same item."""
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def seed(self) -> int | None:
        """The seed of this sample, so that samples differ and are repeatable."""
        return None if self.sampling.seed is None else self.sampling.seed + self.sample

    @cached_property
    def key(self) -> str:
        """Digest of everything that the answer depends on, except for the endpoint."""
        parts = {
            "model": self.model,
            "messages": self.messages,
            "tools": self.tools,
            "sampler": ANSWER_SAMPLING_FIELDS.values(self.sampling),
            "seed": self.seed,
            "sample": self.sample,
        }
        return versioned_digest("answer/1", parts)


class ResponseCache:
    """Answers by request key, so that a stopped evaluation can continue.

    Each answer is one appended line. A line that a crash cut short is skipped when the file is read again. Refused and
    failed requests are not cached.

    Args:
        folder: Where the file is; ``None`` caches for this process only.
        endpoint: Fingerprint of the endpoint; the same model name at another endpoint is another model.
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
        """Number of cached answers."""
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The cached answer, if there is one."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Cache an answer; it is on disk before this returns.

        Raises:
            LocalStateError: The file cannot be written.
        """
        self.put_all({key: answer})

    def put_all(self, answers: Mapping[str, Answer]) -> None:
        """Cache several answers by their keys, as ``put`` does for one."""
        lines = [
            json.dumps({"key": key, "answer": answer.model_dump(mode="json", exclude_defaults=True)}) + "\n"
            for key, answer in answers.items()
        ]
        with self._lock:
            self._answers |= answers
            if self.path is not None and lines:
                self._append(self.path, "".join(lines).encode())

    def _append(self, path: Path, lines: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, flags, 0o600)
            try:
                left = memoryview((b"\n" if self._needs_newline else b"") + lines)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise LocalStateError(
                f"the answers cannot be written to {path}: {exc.strerror or exc}",
                "free space on the disk or fix the folder's permissions, then run the same command again",
            ) from exc
        self._needs_newline = False

    def _load(self, path: Path) -> None:
        """Read the file, without the lines that are not an answer."""
        try:
            with path.open("rb") as stream, jsonlines.Reader(stream, loads=json.loads) as reader:
                for entry in reader.iter(type=dict, skip_empty=True, skip_invalid=True):
                    try:
                        self._answers[entry["key"]] = Answer.model_validate(entry["answer"])
                    except (KeyError, TypeError, ValidationError):
                        continue
                self._needs_newline = ends_within_line(stream)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise LocalStateError(
                f"the answers of earlier evaluations cannot be read from {path}: {exc.strerror or exc}",
                "fix its permissions, or rename it to send all requests again",
            ) from exc
