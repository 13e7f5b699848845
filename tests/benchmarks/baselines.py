"""What is measured against each other, each a program of its own: ``python -m tests.benchmarks.baselines NAME FILE``.

A contender prints the number of tokens; ftpipe prints its document, which has it.
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
    """The cookbook's way, written anew from its description: load all, check, count value by value with tiktoken."""
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
    """Names of the cookbook's format checks that a record fails."""
    if not isinstance(record, dict):
        return ["data_type"]
    messages = record.get("messages")
    if not messages:
        return ["missing_messages_list"]
    found = []
    for message in messages:
        if "role" not in message or "content" not in message:
            found.append("message_missing_key")
        if any(key not in ("role", "content", "name", "function_call", "weight") for key in message):
            found.append("message_unrecognized_key")
        if message.get("role") not in ("system", "user", "assistant", "function"):
            found.append("unrecognized_role")
        content = message.get("content")
        if (not content and not message.get("function_call")) or not isinstance(content, str):
            found.append("missing_content")
    if not any(message.get("role") == "assistant" for message in messages):
        found.append("example_missing_assistant_message")
    return found


def plain(path: Path) -> int:
    """Only json and tiktoken, line by line."""
    encoding, total = reference(), 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            for message in json.loads(line)["messages"]:
                total += 3 + sum(len(encoding.encode_ordinary(value)) for value in message.values())
            total += 3
    return total


def bare(path: Path, part: int = 0, parts: int = 1) -> int:
    """The exact tokenizer alone on the contents, on one core."""
    import orjson

    from ftpipe.tokenization import open_counter

    size = path.stat().st_size
    counter = open_counter("o200k_base", size=size)
    total, held = 0, []
    with path.open("rb") as file:
        if part:
            file.seek(size * part // parts - 1)
            file.readline()
        while file.tell() < size * (part + 1) // parts:
            held += [message["content"] for message in orjson.loads(file.readline())["messages"]]
            if len(held) > 2_000:
                total += sum(counter.count(held))
                held = []
    return total + sum(counter.count(held))


def bare_everywhere(path: Path) -> int:
    """The same on all cores: the limit of this machine."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        return sum(pool.map(bare, [path] * cores, range(cores), [cores] * cores))


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


def reference() -> Any:  # tiktoken is imported by the dataset room only
    """The reference tokenizer o200k_base, built without a network."""
    from ftpipe.tokenization import open_tiktoken

    return open_tiktoken("o200k_base")


CONTENDERS: dict[str, Callable[[Path], object]] = {
    "cookbook": cookbook,
    "json+tiktoken": plain,
    "bare tokenizer (1 core)": bare,
    "bare tokenizer (all cores)": bare_everywhere,
    "ftpipe": ftpipe,
    "ftpipe (tiktoken)": ftpipe_tiktoken,
    "ftpipe (1 process)": ftpipe_one,
}

if __name__ == "__main__":
    sys.stdout.write(f"{CONTENDERS[sys.argv[1]](Path(sys.argv[2]))}\n")
