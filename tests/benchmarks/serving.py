"""Tokens per second and time to the first token for several clients at once, in one run with plain transformers.

Usage: ``python -m tests.benchmarks.serving [--base FOLDER] [--clients 1,4,16,32] [--adapters 0,1,4]``

Each client sends one chat and gets 40 tokens, prompt included in the time. ``one by one`` computes each sequence by
itself, as the endpoint did before batches; ``generate`` is transformers' own, for a whole batch that begins and ends
together, without adapters. Then the memory of the process over many requests, and how soon a client is answered after
200 others have left.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import psutil

from ftpipe.inference.decoder_weights import is_supported
from ftpipe.inference.engine import Engine
from ftpipe.inference.request import GenerationRequest
from ftpipe.modeling.base_models import DEFAULT_BASE, resolve_base
from ftpipe.modeling.device import select_device
from ftpipe.modeling.loading import load_base, load_tokenizer
from ftpipe.paths import models_dir
from tests.inference.batch_models import make_adapter

TOKENS = 40
SYSTEM = "You route tickets of an online shop. Answer with the right team, the urgency, and one sentence that says why."
KINDS = ("one by one", "float32", "bfloat16", "int8")


def request_of(number: int, **changes: Any) -> GenerationRequest:
    """A chat with the same beginning as the others."""
    ticket = f"Ticket {number}: the app stops when I pay invoice {number * 7}, since {number % 9} days."
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ticket}]
    return GenerationRequest(messages=messages, temperature=0.0, max_tokens=TOKENS, **changes)


@contextmanager
def engine_of(kind: str, models: Path) -> Iterator[Engine]:
    """An engine of one kind."""
    with patch("ftpipe.inference.engine.is_supported", lambda model: kind != "one by one" and is_supported(model)):
        engine = Engine(models_dir=models, precision=None if kind == "one by one" else kind)  # type: ignore[arg-type]
        try:
            yield engine
        finally:
            engine.close()


def measure(engine: Engine, base: str, adapters: list[Path | None], clients: int, start: int) -> tuple[float, float]:
    """Tokens per second of all clients, and the median time to the first token."""
    firsts: list[float] = []
    tokens: list[int] = []
    barrier = threading.Barrier(clients + 1)

    def chat(number: int) -> None:
        barrier.wait()
        begun = time.perf_counter()
        first = None
        adapter = adapters[number % len(adapters)]
        for delta in engine.generate(base=base, adapter=adapter, request=request_of(start + number, logprobs=0)):
            first = first or time.perf_counter() - begun
            if delta.finish_reason is not None:
                tokens.append(delta.completion_tokens)
        firsts.append(first or 0.0)

    threads = [threading.Thread(target=chat, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(tokens) / (time.perf_counter() - begun), statistics.median(firsts)


def measure_generate(base: Path, clients: int) -> float:
    """Tokens per second of transformers' ``generate`` for a batch."""
    import torch

    model, tokenizer = load_base(base, select_device()), load_tokenizer(base)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = [
        tokenizer.apply_chat_template(request_of(number).messages, tokenize=False, add_generation_prompt=True)
        for number in range(clients)
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        begun = time.perf_counter()
        model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, use_cache=True)
    return clients * TOKENS / (time.perf_counter() - begun)


def measure_memory(engine: Engine, base: str, requests: int) -> list[int]:
    """Megabytes of the process at the start and after each quarter of the requests."""
    process = psutil.Process()
    sizes = [process.memory_info().rss >> 20]
    for quarter in range(4):
        for start in range(0, requests // 4, 16):
            measure(engine, base, [None], 16, quarter * requests + start)
        sizes.append(process.memory_info().rss >> 20)
    return sizes


def measure_after_leaving(engine: Engine, base: str) -> tuple[float, float]:
    """Seconds to the first token of a chat alone, and of one after 200 clients have left."""

    def first() -> float:
        begun = time.perf_counter()
        next(iter(engine.generate(base=base, adapter=None, request=request_of(5))))
        return time.perf_counter() - begun

    alone = first()
    streams = [engine.generate(base=base, adapter=None, request=request_of(number)) for number in range(200)]
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    return alone, first()


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="folder of a base model; the default one if not given")
    parser.add_argument("--clients", default="1,4,16,32")
    parser.add_argument("--adapters", default="0,1,4")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--requests", type=int, default=1000, help="for the memory")
    options = parser.parse_args()
    base = options.base or resolve_base(DEFAULT_BASE, models_dir=models_dir(), on_status=click.echo)
    client_counts = [int(count) for count in options.clients.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        folders = [make_adapter(base, Path(folder) / f"{number}", 0.0005 * (number + 1)) for number in range(4)]
        click.echo(f"{'':24}" + "".join(f"{count:>5} clients       " for count in client_counts))
        for kind in options.kinds.split(","):
            with engine_of(kind, Path(folder)) as engine:
                measure(engine, str(base), [None], 1, 0)
                for count in [int(number) for number in options.adapters.split(",")]:
                    adapters: list[Path | None] = [*folders[:count]] or [None]
                    cells = [measure(engine, str(base), adapters, clients, 100) for clients in client_counts]
                    row = "".join(f"{speed:6.1f}/s {first:6.2f} s   " for speed, first in cells)
                    click.echo(f"{kind:<12} {count} adapters  {row}")
    speeds = "".join(f"{measure_generate(base, clients):6.1f}/s            " for clients in client_counts)
    click.echo(f"{'generate':<24}{speeds}")
    with engine_of("bfloat16", base) as engine:
        sizes = measure_memory(engine, str(base), options.requests)
        click.echo(f"memory over {options.requests} requests: " + ", ".join(f"{size} MB" for size in sizes))
        alone, after = measure_after_leaving(engine, str(base))
        click.echo(f"first token of one chat: {alone:.2f} s alone, {after:.2f} s after 200 clients have left")


if __name__ == "__main__":
    main()
