"""Numbers about the running server, in Prometheus' text format.

Written by hand: the format is the last 20 lines, and the counters are dictionaries. ``prometheus_client`` would be a
dependency for that, with a registry, collectors and a web server that nothing here needs.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4, 2026-11-29.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ftpipe.inference.detokenizer import Delta
from ftpipe.inference.request import GenerationRequest, Priority
from ftpipe.server.api.text_generation import GenerationBackend

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
OTHER = "other"
"""Label of methods and routes that the server does not have: clients must not be able to make labels."""
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
MAX_CHILDREN = 1000
"""Processes whose memory is added up."""


class Queue(Protocol):
    """A queue of requests."""

    @property
    def running(self) -> int:
        """Requests that are computed."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""


@dataclass(slots=True)
class Metric:
    """A metric with its samples.

    Attributes:
        name: As Prometheus shows it.
        kind: Its type.
        help: What it counts, and in which unit.
        samples: Suffix of the name, labels and value of each sample.
    """

    name: str
    kind: Literal["counter", "gauge", "summary"]
    help: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", **labels: str) -> None:
        """Add a sample."""
        self.samples.append((suffix, labels, value))


class ServerMetrics:
    """Counts requests and tokens; can be used from several threads.

    Attributes:
        started_at: UTC Unix seconds.
        queues: The queues of requests, by name.
    """

    def __init__(self) -> None:
        self.started_at = time.time()
        self.queues: dict[str, Queue] = {}
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, Priority]] = Counter()
        self._generations: Counter[Priority] = Counter()
        self._running: Counter[Priority] = Counter()
        self._first_tokens: Counter[Priority] = Counter()
        self._first_token_seconds: Counter[Priority] = Counter()

    def count_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: Its method.
            route: Its path with the names of its parameters; ``None`` if the server has no such route.
            status: That of the response; 0 if there was none.
            seconds: From its headers to the end of its response.
        """
        key = (method if method in METHODS else OTHER, route or OTHER)
        with self._lock:
            self._requests[*key, status] += 1
            self._seconds[key] += seconds  # type: ignore[assignment]  # a Counter adds floats, too

    def measure(self, priority: Priority, pieces: Iterator[Delta]) -> Iterator[Delta]:
        """The pieces of an answer, which is counted; closing this closes them."""
        started_at, is_first, prompt_tokens, completion_tokens = time.monotonic(), True, 0, 0
        with self._lock:
            self._running[priority] += 1
        try:
            with closing(pieces):  # type: ignore[type-var]  # a generator, which has close()
                for piece in pieces:
                    if is_first:
                        is_first = False
                        self._count_first_token(priority, time.monotonic() - started_at)
                    if piece.finish_reason is not None:
                        prompt_tokens, completion_tokens = piece.prompt_tokens, piece.completion_tokens
                    yield piece
        finally:
            with self._lock:
                self._running[priority] -= 1
                self._generations[priority] += 1
                self._tokens["prompt", priority] += prompt_tokens
                self._tokens["completion", priority] += completion_tokens

    def _count_first_token(self, priority: Priority, seconds: float) -> None:
        with self._lock:
            self._first_tokens[priority] += 1
            self._first_token_seconds[priority] += seconds  # type: ignore[assignment]  # as above

    def collect(self) -> list[Metric]:
        """The metrics that this object counts."""
        requests = Metric("ftpipe_http_requests_total", "counter", "Requests that were answered, by route.")
        durations = Metric("ftpipe_http_request_duration_seconds", "summary", "Time until responses were complete.")
        tokens = Metric("ftpipe_tokens_total", "counter", "Tokens of answers that were completed, by kind.")
        answers = Metric("ftpipe_generations_total", "counter", "Answers that have ended.")
        running = Metric("ftpipe_generations_running", "gauge", "Answers that are computed, together in one batch.")
        first = Metric("ftpipe_time_to_first_token_seconds", "summary", "Time until answers had their first token.")
        queued = Metric("ftpipe_requests_waiting", "gauge", "Requests that wait in a queue.")
        admitted = Metric("ftpipe_requests_running", "gauge", "Requests of a queue that are computed.")
        with self._lock:
            counts: Counter[tuple[str, str]] = Counter()
            for (method, route, status), count in sorted(self._requests.items()):
                requests.add(count, method=method, route=route, status=str(status))
                counts[method, route] += count
            for (method, route), seconds in sorted(self._seconds.items()):
                durations.add(seconds, "_sum", method=method, route=route)
                durations.add(counts[method, route], "_count", method=method, route=route)
            for priority in PRIORITIES:
                for kind in ("prompt", "completion"):
                    tokens.add(self._tokens[kind, priority], kind=kind, priority=priority)
                answers.add(self._generations[priority], priority=priority)
                running.add(self._running[priority], priority=priority)
                first.add(self._first_token_seconds[priority], "_sum", priority=priority)
                first.add(self._first_tokens[priority], "_count", priority=priority)
        for name, queue in self.queues.items():
            queued.add(queue.waiting, queue=name)
            admitted.add(queue.running, queue=name)
        return [requests, durations, tokens, answers, running, first, queued, admitted]


class MeteredBackend:
    """Counts the answers of another backend.

    Args:
        backend: Generates them.
        metrics: Counts them.
    """

    def __init__(self, backend: GenerationBackend, metrics: ServerMetrics) -> None:
        self._backend = backend
        self._metrics = metrics

    def load(self, base: str) -> Future[Any]:
        """Load a base model in the background."""
        return self._backend.load(base)

    def generate(
        self, *, base: str, adapter: Path | None, request: GenerationRequest, check_cancelled: Callable[[], None]
    ) -> Iterator[Delta]:
        """The answer in pieces."""
        pieces = self._backend.generate(base=base, adapter=adapter, request=request, check_cancelled=check_cancelled)
        return self._metrics.measure(request.priority, pieces)

    def close(self) -> None:
        """End the backend."""
        self._backend.close()


def process_metrics(started_at: float) -> list[Metric]:
    """Memory of the server and of the processes that it has started, and how long it runs."""
    import psutil

    memory = Metric("ftpipe_resident_memory_bytes", "gauge", "Memory of the server and of the processes it started.")
    processes = Metric("ftpipe_processes", "gauge", "Processes of the server.")
    start = Metric("process_start_time_seconds", "gauge", "Start of the server, in UTC Unix seconds.")
    uptime = Metric("ftpipe_uptime_seconds", "gauge", "Time since the start of the server.")
    server = psutil.Process()
    resident: Counter[str] = Counter(server=server.memory_info().rss)
    number: Counter[str] = Counter(server=1)
    for child in server.children(recursive=True)[:MAX_CHILDREN]:
        try:
            kind, size = _kind_of(child.cmdline()), child.memory_info().rss
        except psutil.Error:
            continue  # it has ended
        resident[kind] += size
        number[kind] += 1
    for kind in PROCESS_KINDS:
        memory.add(resident[kind], process=kind)
        processes.add(number[kind], process=kind)
    start.add(started_at)
    uptime.add(time.time() - started_at)
    return [memory, processes, start, uptime]


_MODULES = {
    "ftpipe.training": "trainer",
    "ftpipe.server.jobs.file_validation": "validation",
    "ftpipe.server.inference": "inference",
}
"""Module that a process of the server runs → its label."""
PROCESS_KINDS = ("server", *_MODULES.values(), OTHER)


def _kind_of(command: Iterable[str]) -> str:
    words = list(command)
    return next((kind for module, kind in _MODULES.items() if any(module in word for word in words)), OTHER)


def to_text(metrics: Iterable[Metric]) -> str:
    """Metrics in Prometheus' text format."""
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for suffix, labels, value in metric.samples:
            pairs = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
            lines.append(f"{metric.name}{suffix}{f'{{{pairs}}}' if pairs else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}"
