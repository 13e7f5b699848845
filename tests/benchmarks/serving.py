"""Tokens per second and time to the first token for several clients at once, in one run with what they compare with.

Usage: ``python -m tests.benchmarks.serving [--base FOLDER] [--clients 1,4,16,32] [--adapters 0,1,4] [--short]``

Each client sends one chat, all in the same instant, and gets 40 tokens, whatever the model would end with; the prompt
is included in the time. ``one by one`` computes each sequence by itself, as the endpoint did before batches;
``generate`` is transformers' own, for a whole batch that begins and ends together, without adapters; llama.cpp is there
if the packages ``xllamacpp`` and ``gguf`` are. Then clients that send their next chat when they have their answer, of
another length each time, as users do; the first token of clients with a system prompt that nobody has sent before; the
memory of the process over many short chats; and how soon a client is answered after 200 others have left. ``--short``
takes less than six minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import psutil

from ftpipe.inference.decoder_weights import is_supported
from ftpipe.inference.engine import Engine
from ftpipe.inference.generation import Generation
from ftpipe.inference.request import GenerationRequest
from ftpipe.modeling.base_models import DEFAULT_BASE, resolve_base
from ftpipe.modeling.device import select_device
from ftpipe.modeling.loading import load_base, load_tokenizer
from ftpipe.paths import models_dir
from ftpipe.server.memory import limit_malloc_arenas, release_memory
from tests.benchmarks import llama_cpp
from tests.inference.batch_models import make_adapter

TOKENS = 40
LENGTHS = (20, 60)
"""Fewest and most tokens of clients that send one chat after the other."""
LOOP_SECONDS = 12.0
SYSTEM = "You route tickets of an online shop. Answer with the right team, the urgency, and one sentence that says why."
LONG_SYSTEM = " ".join(f"Rule {number}: tickets about product {number} go to team {number % 7}." for number in range(9))
KINDS = ("one by one", "float32", "bfloat16", "int8")
QUANTIZATIONS = ("Q8_0", "Q4_1")

Chat = Callable[[int], tuple[int, float]]
"""Sends the chat of a client; its tokens and the seconds to the first one."""


def messages_of(number: int, system: str = SYSTEM) -> list[dict[str, Any]]:
    """A chat with the same beginning as the others."""
    ticket = f"Ticket {number}: the app stops when I pay invoice {number * 7}, since {number % 9} days."
    return [{"role": "system", "content": system}, {"role": "user", "content": ticket}]


def request_of(number: int, system: str = SYSTEM, **changes: Any) -> GenerationRequest:
    """The request of a chat."""
    return GenerationRequest(
        **{"messages": messages_of(number, system), "temperature": 0.0, "max_tokens": TOKENS, **changes}
    )


@contextmanager
def engine_of(kind: str, models: Path) -> Iterator[Engine]:
    """An engine of one kind, whose answers have all the tokens that they may have."""
    with (
        patch("ftpipe.inference.engine.is_supported", lambda model: kind != "one by one" and is_supported(model)),
        patch("ftpipe.inference.engine.Generation", lambda **values: Generation(**{**values, "stop_token_ids": set()})),
    ):
        engine = Engine(models_dir=models, precision=None if kind == "one by one" else kind)  # type: ignore[arg-type]
        try:
            yield engine
        finally:
            engine.close()


def chat_of(engine: Engine, base: Path, adapters: list[Path | None], **changes: Any) -> Chat:
    """Chats with an engine, in turn with each adapter."""

    def chat(number: int) -> tuple[int, float]:
        begun = time.perf_counter()
        first, tokens = 0.0, 0
        request = request_of(number, **changes)
        adapter = adapters[number % len(adapters)]
        for delta in engine.generate(base=str(base), adapter=adapter, request=request):
            first = first or time.perf_counter() - begun
            tokens = delta.completion_tokens
        return tokens, first

    return chat


def measure(chat: Chat, clients: int, start: int) -> tuple[float, float]:
    """Tokens per second of all clients, and the median time to the first token."""
    results: list[tuple[int, float]] = []
    barrier = threading.Barrier(clients + 1)

    def run(number: int) -> None:
        barrier.wait()
        results.append(chat(number))

    threads = [threading.Thread(target=run, args=(start + number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    return sum(tokens for tokens, _ in results) / seconds, statistics.median(first for _, first in results)


def measure_loop(engine: Engine, base: Path, clients: int) -> str:
    """Clients that send their next chat when they have their answer, so that they are not in step with each other."""
    results: list[tuple[int, float]] = []
    until = time.perf_counter() + LOOP_SECONDS

    def run(client: int) -> None:
        numbers = random.Random(client)
        while time.perf_counter() < until:
            chat = chat_of(engine, base, [None], max_tokens=numbers.randint(*LENGTHS))
            results.append(chat(numbers.randrange(10_000)))

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    speed = sum(tokens for tokens, _ in results) / (time.perf_counter() - begun)
    firsts = [first for _, first in results]
    median, last = statistics.median(firsts), statistics.quantiles(firsts, n=20)[-1]
    return f"{speed:.1f}/s, first token {median:.2f} s (95 % within {last:.2f} s) for {clients}"


def measure_generate(base: Path, client_counts: list[int]) -> list[float]:
    """Tokens per second of transformers' ``generate`` for batches."""
    import torch

    model, tokenizer = load_base(base, select_device()), load_tokenizer(base)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    speeds: list[float] = []
    for clients in client_counts:
        texts = [
            tokenizer.apply_chat_template(messages_of(number), tokenize=False, add_generation_prompt=True)
            for number in range(clients)
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            begun = time.perf_counter()
            model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, use_cache=True)
        speeds.append(clients * TOKENS / (time.perf_counter() - begun))
    return speeds


def measure_llama(path: Path, clients: int) -> tuple[float, float]:
    """The same numbers of llama.cpp."""
    import torch

    server = llama_cpp.LlamaServer(path, clients, torch.get_num_threads())
    server.chat(messages_of(0), 2)
    return measure(lambda number: server.chat(messages_of(number), TOKENS), clients, 100)


def measure_new_beginnings(engine: Engine, base: Path) -> list[str]:
    """Time to the first token with a long system prompt that is new, for one client and for 16 at once."""
    lines: list[str] = []
    for clients in (1, 16):
        system = f"Shop {clients}. {LONG_SYSTEM}"
        firsts = [
            measure(chat_of(engine, base, [None], system=f"{time.time()} {system}", max_tokens=1), clients, 0)[1]
            for _ in range(2)
        ]
        lines.append(f"{min(firsts):.2f} s for {clients}")
    return lines


def measure_memory(engine: Engine, base: Path, requests: int) -> list[int]:
    """Megabytes of the process at the start and after each tenth of the requests."""
    process = psutil.Process()
    chat = chat_of(engine, base, [None], max_tokens=4)
    sizes: list[int] = []
    for start in range(0, requests, 20):
        if start % max(20, requests // 10 // 20 * 20) == 0:
            release_memory()
            sizes.append(process.memory_info().rss >> 20)
        measure(chat, 20, 1000 + start)
    release_memory()
    return [*sizes, process.memory_info().rss >> 20]


def measure_after_leaving(engine: Engine, base: Path) -> tuple[float, float]:
    """Seconds to the first token of a chat alone, and of one after 200 clients have left."""
    chat = chat_of(engine, base, [None], max_tokens=1)
    alone = min(chat(5)[1] for _ in range(3))
    streams = [engine.generate(base=str(base), adapter=None, request=request_of(number)) for number in range(200)]
    for stream in streams:
        stream.close()
    return alone, chat(5)[1]


def cells(results: list[tuple[float, float]], references: list[float]) -> str:
    """Speed, ratio to the first row, and time to the first token."""
    parts = []
    for (speed, first), reference in zip(results, references or [0.0] * len(results), strict=True):
        ratio = f"{speed / reference:4.1f}x" if reference else " " * 5
        parts.append(f"{speed:6.1f}/s {ratio} {first:5.2f} s  ")
    return "".join(parts)


def show_kinds(options: argparse.Namespace, base: Path, folder: Path, client_counts: list[int]) -> None:
    """A row for each kind and number of adapters."""
    adapters = [make_adapter(base, folder / f"{number}", 0.0005 * (number + 1)) for number in range(4)]
    references: list[float] = []
    for kind in options.kinds.split(","):
        with engine_of(kind, folder) as engine:
            measure(chat_of(engine, base, [None]), 1, 0)
            for count in [int(number) for number in options.adapters.split(",")]:
                if options.short and kind == "one by one" and count:
                    continue
                chat = chat_of(engine, base, [*adapters[:count]] or [None])
                results = [measure(chat, clients, 100) for clients in client_counts]
                click.echo(f"{kind:<14} {count} adapters {cells(results, references)}")
                references = references or [speed for speed, _ in results]
    speeds = [(speed, 0.0) for speed in measure_generate(base, client_counts)]
    click.echo(f"{'generate':<25}{cells(speeds, references)}")
    if not llama_cpp.is_available():
        click.echo("llama.cpp: skipped; `pip install xllamacpp gguf` for it")
        return
    for quantization in QUANTIZATIONS:
        path = llama_cpp.write_quantized(base, folder / f"{quantization}.gguf", quantization)
        results = [measure_llama(path, clients) for clients in client_counts]
        click.echo(f"{'llama.cpp ' + quantization:<25}{cells(results, references)}")


def main() -> None:
    """Measure everything."""
    limit_malloc_arenas()  # as in the server
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of a base model; the default one if not given")
    parser.add_argument("--clients")
    parser.add_argument("--adapters")
    parser.add_argument("--kinds")
    parser.add_argument("--requests", type=int, default=1000, help="for the memory")
    parser.add_argument("--short", action="store_true", help="fewer of all")
    options = parser.parse_args()
    options.clients = options.clients or ("1,16" if options.short else "1,4,16,32")
    options.adapters = options.adapters or ("0,4" if options.short else "0,1,4")
    options.kinds = options.kinds or ",".join(kind for kind in KINDS if not options.short or kind != "float32")
    base = options.base or resolve_base(DEFAULT_BASE, models_dir=models_dir(), on_status=click.echo)
    client_counts = [int(count) for count in options.clients.split(",")]
    click.echo(f"{'':25}" + "".join(f"{f'{count} clients':<24}" for count in client_counts))
    with tempfile.TemporaryDirectory() as folder:
        show_kinds(options, base, Path(folder), client_counts)
        with engine_of("bfloat16", Path(folder)) as engine:
            measure(chat_of(engine, base, [None]), 1, 0)
            loops = [measure_loop(engine, base, clients) for clients in (1, 16)]
            click.echo(f"one chat after the other: {'; '.join(loops)} clients")
            click.echo(f"first token, new system prompt: {', '.join(measure_new_beginnings(engine, base))} clients")
            alone, after = measure_after_leaving(engine, base)
            click.echo(f"first token of one chat: {alone:.2f} s alone, {after:.2f} s after 200 clients have left")
            sizes = measure_memory(engine, base, options.requests)
            click.echo(f"memory over {options.requests} requests: {', '.join(map(str, sizes))} MB")


if __name__ == "__main__":
    main()
