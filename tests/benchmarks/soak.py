"""Honest and hostile clients on one server for some time: how long honest chats take, and whether anything is lost.

Usage: ``python -m tests.benchmarks.soak [--minutes 20] [--base FOLDER] [--pause 0.5]``

The server is the real one, on loopback. Without ``--base``, its base model has some thousand parameters: a token then
takes about a millisecond, and what the server does besides the model weighs most. First the honest clients are alone,
for a fifth of the time; then the hostile ones join: chats that are abandoned, floods, slow bodies and readers, unknown
models and paths, long prompts, hostile graders, files and jobs. Everything ends by itself. It prints the latency of
honest chats alone and under attack, the memory of the server's processes, and honest files that were lost.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psutil

from tests.training.tiny_model import save_base

MODEL = "smollm2-135m-instruct"
QUIET_SHARE = 0.2
INFERENCE_MODULE = "ftpipe.server.inference.worker"
HONEST_CLIENTS = 2
HONEST_PAUSE_SECONDS = 0.5
HONEST_TOKENS = 32
MAX_CHAT_SECONDS = 60.0
"""An honest chat that has no answer after that ends the soak as failed."""
HOSTILE_CLIENTS = 6
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ROW = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


def chat_body(**changes: Any) -> dict[str, Any]:
    """A chat."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "where is it?"}], **changes}


class Connections:
    """Makes the requests of the owners of a server's keys."""

    def __init__(self, port: int, keys: dict[str, str]) -> None:
        self.port = port
        self.keys = keys

    def call(
        self,
        owner: str,
        path: str,
        body: dict[str, Any] | bytes | None = None,
        content_type: str = "application/json",
        timeout: float = 300,
    ) -> tuple[int, bytes]:
        """GET, or POST; the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            headers = {"Authorization": f"Bearer {self.keys[owner]}", "Content-Type": content_type}
            connection.request("GET" if data is None else "POST", path, data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def upload(self, owner: str, content: bytes) -> tuple[int, bytes]:
        """Upload a training file."""
        form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content
        return self.call(owner, "/v1/files", form + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")

    def send(self, body: dict[str, Any], *, content_length: int | None = None) -> socket.socket:
        """A connection of the hostile client that has sent a chat, or the beginning of one."""
        content = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.keys['hostile']}\r\nContent-Length: {content_length or len(content)}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(head.encode() + content)
        return connection


class Server(Connections):
    """``ftpipe serve`` in a process.

    Args:
        folder: An empty folder.
        base: The folder of a base model; without it, one of some thousand parameters is made.
        context_tokens: Tokens that this one reads at most.
    """

    def __init__(self, folder: Path, *, base: Path | None = None, context_tokens: int = 512) -> None:
        self.data_dir = folder / "data"
        self.inference: psutil.Process | None = None
        keys = {owner: secrets.token_hex(16) for owner in ("honest", "hostile")}
        key_file = folder / "keys"
        key_file.write_text("".join(f"{owner}:{key}\n" for owner, key in keys.items()), encoding="utf-8")
        key_file.chmod(0o600)
        if base is None:
            save_base(folder / "home" / "models" / MODEL, max_position_embeddings=context_tokens)
        else:
            shutil.copytree(base, folder / "home" / "models" / MODEL)
        command = [sys.executable, "-m", "ftpipe", "-q", "serve", "--port", "0", "--data-dir", str(self.data_dir)]
        environment = os.environ | {"FTPIPE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--api-key-file", str(key_file)], stdout=output, stderr=output, env=environment
            )
        while not (self.data_dir / "server.json").exists():
            if self.process.poll() is not None:
                raise RuntimeError((folder / "output").read_text(encoding="utf-8"))
            time.sleep(0.05)
        port = json.loads((self.data_dir / "server.json").read_text(encoding="utf-8"))["port"]
        super().__init__(int(port), keys)

    def rss_mb(self) -> tuple[float, float]:
        """Memory of the server's process, and of its inference process, which runs from the first chat on."""
        server = psutil.Process(self.process.pid)
        if self.inference is None or not self.inference.is_running():  # a search takes time from the honest clients
            self.inference = next((child for child in server.children() if _is_inference(child)), None)
        return _rss_mb(server), 0.0 if self.inference is None else _rss_mb(self.inference)


def _is_inference(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # the check of a file, for example, may have ended
        return INFERENCE_MODULE in process.cmdline()
    return False


def _rss_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


class HostileClient:
    """What hostile clients do; one of these at a time in each thread."""

    def __init__(self, server: Connections) -> None:
        self.server = server

    def attacks(self) -> list[Callable[[], None]]:
        """All of them."""
        return [
            self.abandon, self.flood, self.slow_body, self.slow_reader, self.pipeline, self.wrong_models,
            self.long_prompt, self.grader, self.hostile_job, self.broken_requests,
        ]  # fmt: skip

    def abandon(self) -> None:
        """Chats of many tokens whose client leaves."""
        for changes in ({"n": 20}, {"stream": True}, {"stream": True, "tools": [TOOL]}, {"stream": True, "n": 20}):
            with self.server.send(chat_body(max_tokens=400, **changes)):
                time.sleep(random.random() * 0.2)

    def flood(self) -> None:
        """More chats at once than may wait."""
        connections = [self.server.send(chat_body(max_tokens=400)) for _ in range(100)]
        time.sleep(1)
        for connection in connections:
            connection.close()

    def slow_body(self) -> None:
        """A body that comes byte by byte."""
        with self.server.send({"model": "x"}, content_length=10_000) as connection:
            for _ in range(20):
                connection.sendall(b" ")
                time.sleep(0.1)

    def slow_reader(self) -> None:
        """A stream that is not read."""
        with self.server.send(chat_body(max_tokens=400, stream=True, n=5, logprobs=True, top_logprobs=20)):
            time.sleep(5)

    def pipeline(self) -> None:
        """A second request behind the first, and gone."""
        with self.server.send(chat_body(max_tokens=400)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 10)
            time.sleep(0.1)

    def wrong_models(self) -> None:
        """Names that nobody has, hub ids and paths."""
        for name in ("nobody", "org/name", "/etc/passwd", "../x", "ft:x:local::12345678", "gpt-4o/../x"):
            self.server.call("hostile", "/v1/chat/completions", chat_body(model=name))

    def long_prompt(self) -> None:
        """A prompt far over the context."""
        self.server.call(
            "hostile", "/v1/chat/completions", chat_body(messages=[{"role": "user", "content": "x" * 400_000}])
        )

    def grader(self) -> None:
        """A template with many blanks, and one that repeats a large item."""
        for template in ("{{" + " " * 20_000, "{{item.a}}" * 500):
            grader = {"type": "string_check", "name": "g", "operation": "eq", "input": template, "reference": "x"}
            body = {"grader": grader, "model_sample": "x", "item": {"a": "y" * 10_000}}
            self.server.call("hostile", "/v1/fine_tuning/alpha/graders/run", body)

    def hostile_job(self) -> None:
        """A job on a file whose check is expensive; cancelled at once, so that no training competes with chat."""
        schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        call = {"name": "f", "arguments": json.dumps({"a": "a" * 40 + "!"})}
        assistant = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]}
        row = {"messages": [{"role": "user", "content": "x"}, assistant], "tools": [tool]}
        status, raw = self.server.upload("hostile", (json.dumps(row) + "\n").encode() * 12)
        if status == 200:
            body = {"model": MODEL, "training_file": json.loads(raw)["id"]}
            status, raw = self.server.call("hostile", "/v1/fine_tuning/jobs", body)
            if status == 200:
                time.sleep(1)
                self.server.call("hostile", f"/v1/fine_tuning/jobs/{json.loads(raw)['id']}/cancel", b"")

    def broken_requests(self) -> None:
        """Bodies that are not what they should be."""
        for body in (b"{", b"[" * 50_000, b'{"messages": ' + b"[" * 5_000, b"\xff"):
            self.server.call("hostile", "/v1/chat/completions", body)


class Soak:
    """Runs the clients and keeps the figures.

    Args:
        server: The server.
        pause_seconds: Of an honest client after each answer.
    """

    def __init__(self, server: Server, *, pause_seconds: float) -> None:
        self.server = server
        self.pause_seconds = pause_seconds
        self.stop = threading.Event()
        self.has_stalled = threading.Event()
        self.is_under_attack = False
        self.latencies: dict[bool, list[float]] = {False: [], True: []}
        self.statuses: dict[str, Counter[str]] = {"honest": Counter(), "hostile": Counter()}
        self.files: dict[str, str] = {}
        self.rss: list[tuple[float, float, float]] = []

    def run(self, seconds: float) -> None:
        """Honest clients alone, then with the hostile ones."""
        if not self.chat():  # loads the model
            self.has_stalled.set()
            return
        self.latencies = {False: [], True: []}
        threads = [threading.Thread(target=self.be_honest) for _ in range(HONEST_CLIENTS)]
        threads += [threading.Thread(target=self.keep_files), threading.Thread(target=self.measure)]
        for thread in threads:
            thread.start()
        self.has_stalled.wait(seconds * QUIET_SHARE)
        self.is_under_attack = True
        context = multiprocessing.get_context("spawn")
        stop, counts = context.Event(), context.SimpleQueue()
        hostile = context.Process(target=attack, args=(self.server.port, self.server.keys, stop, counts))
        hostile.start()
        self.has_stalled.wait(seconds * (1 - QUIET_SHARE))
        stop.set()
        self.stop.set()
        self.statuses["hostile"] = counts.get()
        hostile.join()
        for thread in threads:
            thread.join()

    def chat(self) -> bool:
        """One honest chat, whose latency counts for the phase in which it began; whether it was answered in time."""
        phase, started_at = self.is_under_attack, time.perf_counter()
        body = chat_body(max_tokens=HONEST_TOKENS)
        try:
            status, _ = self.server.call("honest", "/v1/chat/completions", body, timeout=MAX_CHAT_SECONDS)
        except (OSError, http.client.HTTPException) as exc:
            self.statuses["honest"][f"no answer: {type(exc).__name__}"] += 1
            return False
        self.statuses["honest"][str(status)] += 1
        if status == 200:
            self.latencies[phase].append(time.perf_counter() - started_at)
        return True

    def be_honest(self) -> None:
        """Chat again and again; a chat without an answer ends the soak."""
        while not self.stop.wait(self.pause_seconds):
            if not self.chat():
                self.has_stalled.set()
                return

    def keep_files(self) -> None:
        """Upload a file now and then."""
        while not self.stop.wait(5):
            content = (json.dumps(ROW) + "\n").encode() * random.randint(10, 1000)
            status, raw = self.server.upload("honest", content)
            self.statuses["honest"][f"upload {status}"] += 1
            if status == 200:
                self.files[json.loads(raw)["id"]] = hashlib.sha256(content).hexdigest()

    def measure(self) -> None:
        """Read the server's memory now and then."""
        started_at = time.monotonic()
        while not self.stop.wait(5):
            self.rss.append((time.monotonic() - started_at, *self.server.rss_mb()))

    def lost_files(self) -> list[str]:
        """Honest files that are not there any more, or have other content."""
        lost = []
        for file_id, digest in self.files.items():
            status, content = self.server.call("honest", f"/v1/files/{file_id}/content")
            if status != 200 or hashlib.sha256(content).hexdigest() != digest:
                lost.append(file_id)
        return lost

    def report(self) -> Iterator[str]:
        """The figures that there are; after a chat without an answer none of files, as the server may hang."""
        p95 = {}
        for phase, name in ((False, "alone"), (True, "under attack")):
            values = sorted(self.latencies[phase])
            if not values:
                continue
            p95[phase] = values[int(len(values) * 0.95)]
            figures = f"p50 {statistics.median(values):.3f} s, p95 {p95[phase]:.3f} s"
            yield f"honest chat {name:<13} {len(values):5} chats, {figures}"
        if len(p95) == 2:
            yield f"p95 under attack / alone: {p95[True] / p95[False]:.2f}"
        for share in (0.1, QUIET_SHARE, 0.4, 0.6, 0.8, 1.0) if self.rss else ():
            at, server, inference = self.rss[max(0, int(len(self.rss) * share) - 1)]
            total = server + inference
            yield f"memory after {at:5.0f} s: {total:.0f} MB (server {server:.0f}, inference process {inference:.0f})"
        if not self.has_stalled.is_set():
            lost = self.lost_files()
            yield f"honest files: {len(self.files)}, lost: {len(lost)} {lost or ''}"
        for name, counts in self.statuses.items():
            yield f"{name}: {', '.join(f'{key} {count}' for key, count in sorted(counts.items()))}"


def attack(port: int, keys: dict[str, str], stop: Event, counts: SimpleQueue[Counter[str]]) -> None:
    """Be the hostile clients, in a process of its own, until the end.

    Its priority is low: hostile clients have machines of their own, and must not take the processor from the server.
    """
    os.nice(10)
    parent = os.getppid()
    counted: Counter[str] = Counter()

    def run(number: int) -> None:
        order = random.Random(number)
        attacks = HostileClient(Connections(port, keys)).attacks()
        while not stop.is_set() and os.getppid() == parent:
            attack = order.choice(attacks)
            try:
                attack()
            except OSError as exc:
                counted[f"{attack.__name__}: {type(exc).__name__}"] += 1
            else:
                counted[attack.__name__] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(HOSTILE_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts.put(counted)


def main() -> None:
    """Run the soak and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="a base model, for example the default one")
    parser.add_argument("--pause", type=float, default=HONEST_PAUSE_SECONDS, help="of honest clients, in seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), base=arguments.base)
        try:
            soak = Soak(server, pause_seconds=arguments.pause)
            soak.run(arguments.minutes * 60)
            for line in soak.report():
                sys.stdout.write(f"{line}\n")
            if soak.has_stalled.is_set():
                sys.stdout.write((Path(folder) / "output").read_text(encoding="utf-8")[-5000:])
                sys.exit("an honest chat got no answer")
            started_at = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
            sys.stdout.write(f"stopped {time.monotonic() - started_at:.1f} s after SIGTERM\n")
        finally:
            server.process.kill()
            server.process.wait()


if __name__ == "__main__":
    main()
