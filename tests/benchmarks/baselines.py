"""The programs that are compared, each in its own process: ``python -m tests.benchmarks.baselines NAME FILE``.

A baseline prints the number of tokens; ftpipe prints its JSON document, which contains it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

MAX_TOKENS = 65_536


def cookbook(path: Path) -> int:
    """The method of OpenAI's cookbook, from its description: load all, check, count value by value with tiktoken."""
    encoding = reference()
    data = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    errors: Counter[str] = Counter()
    for record in data:
        errors.update(format_errors(record))
    lengths, trained, missing_system, missing_user, turns = [], [], 0, 0, []
    for record in data:
        messages = record["messages"]
        missing_system += not any(m["role"] == "system" for m in messages)
        missing_user += not any(m["role"] == "user" for m in messages)
        turns.append(len(messages))
        lengths.append(
            3 + sum(3 + sum(len(encoding.encode(v, disallowed_special=())) for v in m.values()) for m in messages)
        )
        trained.append(
            sum(len(encoding.encode(m["content"], disallowed_special=())) for m in messages if m["role"] == "assistant")
        )
    return sum(min(MAX_TOKENS, length) for length in lengths)


def format_errors(record: Any) -> list[str]:
    """Names of the format checks that a record fails."""
    if not isinstance(record, dict):
        return ["data_type"]
    messages = record.get("messages")
    if not messages:
        return ["missing_messages_list"]
    errors = []
    for message in messages:
        if "role" not in message or "content" not in message:
            errors.append("message_missing_key")
        if any(key not in ("role", "content", "name", "function_call", "weight") for key in message):
            errors.append("message_unrecognized_key")
        if message.get("role") not in ("system", "user", "assistant", "function"):
            errors.append("unrecognized_role")
        content = message.get("content")
        if (not content and not message.get("function_call")) or not isinstance(content, str):
            errors.append("missing_content")
    if not any(message.get("role") == "assistant" for message in messages):
        errors.append("example_missing_assistant_message")
    return errors


def plain(path: Path) -> int:
    """Only json and tiktoken, line by line."""
    encoding, total = reference(), 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            for message in json.loads(line)["messages"]:
                total += 3 + sum(len(encoding.encode_ordinary(value)) for value in message.values())
            total += 3
    return total


def tokenizer_one_core(path: Path, part: int = 0, parts: int = 1) -> int:
    """The exact tokenizer alone on the contents, on one core."""
    import orjson

    from ftpipe.tokenization import open_counter

    size = path.stat().st_size
    counter = open_counter("o200k_base", size=size)
    total, texts = 0, []
    with path.open("rb") as file:
        if part:
            file.seek(size * part // parts - 1)
            file.readline()
        while file.tell() < size * (part + 1) // parts:
            texts += [message["content"] for message in orjson.loads(file.readline())["messages"]]
            if len(texts) > 2_000:
                total += sum(counter.count(texts))
                texts = []
    return total + sum(counter.count(texts))


def tokenizer_all_cores(path: Path) -> int:
    """The same on all cores: the limit of this machine."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        return sum(pool.map(tokenizer_one_core, [path] * cores, range(cores), [cores] * cores))


def ftpipe(path: Path, checks: str = "") -> None:
    """The command as it is typed: every default check, duplicates, exact tokens, cost. Ends the program.

    Args:
        path: The file.
        checks: Lines for the table ``checks`` of the configuration, which is written to the working folder.
    """
    from ftpipe.__main__ import main

    Path("ftpipe.toml").write_text(f"[checks]\n{checks}\n", encoding="utf-8")
    sys.argv = ["ftpipe", "prepare", str(path), "--model", "gpt-4.1-mini", "--json", "--quiet"]
    main()


def ftpipe_tiktoken(path: Path) -> None:
    """The same without the fast tokenizer."""
    ftpipe(path, checks="engine = 'tiktoken'")


def ftpipe_one(path: Path) -> None:
    """The same in one process."""
    ftpipe(path, checks="processes = 1")


def reference() -> Any:  # tiktoken is imported by ftpipe.tokenization only
    """The reference tokenizer o200k_base, built without a network."""
    from ftpipe.tokenization import open_tiktoken

    return open_tiktoken("o200k_base")


BASELINES: dict[str, Callable[[Path], object]] = {
    "cookbook": cookbook,
    "json+tiktoken": plain,
    "tokenizer alone (1 core)": tokenizer_one_core,
    "tokenizer alone (all cores)": tokenizer_all_cores,
    "ftpipe": ftpipe,
    "ftpipe (tiktoken)": ftpipe_tiktoken,
    "ftpipe (1 process)": ftpipe_one,
}

if __name__ == "__main__":
    sys.stdout.write(f"{BASELINES[sys.argv[1]](Path(sys.argv[2]))}\n")
