"""What is measured against each other, each a program of its own: ``python -m benchmarks.contenders NAME FILE``."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
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


def format_errors(record: Any) -> list[str]:  # noqa: ANN401
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


def bare(path: Path) -> int:
    """The exact tokenizer alone on the texts, on one core: the limit."""
    import orjson

    from ftpipe.dataset.tokens import open_counter

    counter = open_counter("o200k_base", size=path.stat().st_size)
    total, held = 0, []
    with path.open("rb") as file:
        for line in file:
            held += [message["content"] for message in orjson.loads(line)["messages"]]
            if len(held) > 2_000:
                total += sum(counter.count(held))
                held = []
    return total + sum(counter.count(held))


def ftpipe(path: Path, checks: str = "") -> int:
    """The command as it is typed: every default check, duplicates, exact tokens, cost.

    Args:
        path: The file.
        checks: Lines for the table ``checks`` of the configuration.
    """
    from ftpipe.__main__ import main

    said, path = io.StringIO(), path.absolute()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(said):
        Path("ftpipe.toml").write_text(f"[checks]\n{checks}\n", encoding="utf-8")
        sys.argv = ["ftpipe", "prepare", str(path), "--model", "gpt-4.1-mini", "--json", "--quiet"]
        with contextlib.suppress(SystemExit):
            main()
    return int(json.loads(said.getvalue())["tokens"]["total"])


def ftpipe_tiktoken(path: Path) -> int:
    """The same without the fast tokenizer."""
    return ftpipe(path, checks="engine = 'tiktoken'")


def ftpipe_one(path: Path) -> int:
    """The same in one process."""
    return ftpipe(path, checks="processes = 1")


def reference() -> Any:  # noqa: ANN401  # tiktoken is imported by the dataset room only
    """The reference tokenizer o200k_base, built without a network."""
    from ftpipe.dataset.tokens import open_tiktoken

    return open_tiktoken("o200k_base")


CONTENDERS = {
    "cookbook": cookbook,
    "json+tiktoken": plain,
    "bare tokenizer (1 core)": bare,
    "ftpipe": ftpipe,
    "ftpipe (tiktoken)": ftpipe_tiktoken,
    "ftpipe (1 process)": ftpipe_one,
}

if __name__ == "__main__":
    sys.stdout.write(f"{CONTENDERS[sys.argv[1]](Path(sys.argv[2]))}\n")
