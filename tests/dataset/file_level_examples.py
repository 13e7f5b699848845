"""Examples for rules that need a model, a second file, a size, a date or a price: one with the fault, one without."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.paths import models_dir
from ftpipe.stages.count import count
from ftpipe.stages.validate import ScanObserver, validate
from tests.dataset.negative_examples import PNG, Lines, after_roles, exchange, image, with_parts
from tests.dataset.samples import chat, chats, graded, preference, write
from tests.training.templates import SPECIAL

DAY = dt.date(2026, 11, 24)
Codes = set[str]
Example = Callable[[Path, bool], Codes]
"""(folder, with fault or without) → the codes of the findings."""


def codes_of(path: Path, **options: Any) -> Codes:
    """Codes of all findings in a file."""
    return set(validate(path, **{"today": DAY, **options}).summary.counts)


def by_statistics(code: str, *, size: int = 0, **figures: Any) -> Codes:
    """The codes that a rule about the whole file reports for the figures of a file too large to make."""
    statistics = ScanStatistics(FileContext("a.jsonl", "openai", None, "", "chat", size_bytes=size), **figures)
    rules = [rule for rule in all_rules() if rule.code == code and rule.scope == "file"]
    return {rule.code for rule in rules if list(rule.check(statistics))}


def base_model(name: str, template: str | None) -> str:
    """Create a model folder with a chat template, like the trainer does; returns the model's name."""
    folder = models_dir() / name
    folder.mkdir(parents=True, exist_ok=True)
    source, special = SPECIAL[template] if template else ("", [])
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": source} if source else {}))
    added = [{"content": word, "special": True} for word in special]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return name


def with_template(folder: Path, row: dict[str, Any], template: str | None) -> Codes:
    """Codes for a file with one special record and a base model with this template."""
    path = write(folder / "rows.jsonl", [*chats(11), row])
    return codes_of(path, target="local", model=base_model(f"base-{template}", template))


def file_changed(folder: Path, fault: bool) -> Codes:
    """Another program writes to the file while it is read."""
    path = write(folder / "a.jsonl", [*chats()])

    def append_line(_done: int, _total: int) -> None:
        with path.open("ab") as file:
            file.write(b"\n")

    return codes_of(path, **({"observer": ScanObserver(on_progress=append_line)} if fault else {}))


def long_line(folder: Path, fault: bool) -> Codes:
    """A line one byte longer than the limit, or exactly as long."""
    size = len(json.dumps(chat(0), ensure_ascii=False))
    limit = CheckSettings(max_line_bytes=size - fault)
    return codes_of(write(folder / "a.jsonl", [chat(0)]), settings=limit)


def heavy_image(folder: Path, fault: bool) -> Codes:
    """An image of a little more, or a little less, than 10 MB."""
    data = PNG + b"\x00" * (10 * 1024 * 1024 + (3000 if fault else -3000))
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    quick = CheckSettings(select=("FT403",), processes=1, engine="pure-python")
    return codes_of(write(folder / "a.jsonl", [*chats(11), with_parts(image(url))]), settings=quick)


def model_without_vision(folder: Path, fault: bool) -> Codes:
    """The smaller model accepts text only."""
    path = write(folder / "a.jsonl", [*chats(11), with_parts(image("https://a.org/b.png"))])
    return codes_of(path, model="gpt-4.1-mini" if fault else "gpt-4.1")


def reinforcement_job(folder: Path, fault: bool) -> Codes:
    """A reinforcement job with and without a validation file."""
    train = write(folder / "a.jsonl", [graded(n) for n in range(6)])
    validation = write(folder / "b.jsonl", [graded(n) for n in range(6, 12)])
    return codes_of(train, target="azure", for_job=True, validation=None if fault else validation)


def many_validation_records(folder: Path, fault: bool) -> Codes:
    """The limit is 1,000 validation records."""
    rows = [{**graded(0), "answer": str(n)} for n in range(1000 + fault)]
    train = write(folder / "a.jsonl", [graded(n) for n in range(12)])
    return codes_of(train, target="azure", validation=write(folder / "b.jsonl", [*rows]))


def long_example(folder: Path, fault: bool, *, last: str = "user") -> Codes:
    """The limit of the old model is 4,096 tokens."""
    row = exchange("word " * (5000 if fault else 3000))
    if last == "user":
        row["messages"].append({"role": "user", "content": "Thanks."})
    return codes_of(write(folder / "a.jsonl", [*chats(11), row]), model="gpt-3.5-turbo-0613", today=dt.date(2026, 1, 1))


def prose(number: int, word: str = "plain") -> dict[str, Any]:
    """A record of many words."""
    words = " ".join(f"{number}{index}" for index in range(120))
    return exchange(f"Tell me in {word} words of {words}", f"These are words about {number}.")


def near_copy(folder: Path, fault: bool, *, kind: str) -> Codes:
    """A record that differs in one word, or in every word."""
    rows: list[Any] = [prose(n) for n in range(12)]
    other = prose(3, "clear") if fault else prose(13)
    settings = CheckSettings(near_duplicates=True)
    if kind == "same file":
        return codes_of(write(folder / "a.jsonl", [*rows, other]), settings=settings)
    validation = write(folder / "b.jsonl", [other])
    return codes_of(write(folder / "a.jsonl", rows), validation=validation, settings=settings)


def second_file(folder: Path, fault: bool, *, key: str) -> Codes:
    """The other file contains the first training prompt, or one with another punctuation mark."""
    question = chat(0)["messages"][0]["content"]
    other = write(folder / "b.jsonl", [exchange(question if fault else f"{question}!", "Yes.")])
    return codes_of(write(folder / "a.jsonl", [*chats()]), **{key: other})


def outlier(folder: Path, fault: bool) -> Codes:
    """More than ten times the median, or less."""
    rows = [exchange(f"word {n}", "yes " * 10) for n in range(11)]
    return codes_of(write(folder / "a.jsonl", [*rows, exchange("long", "yes " * (300 if fault else 120))]))


def cost_estimate(folder: Path, fault: bool, *, code: str) -> Codes:
    """A limit below or above the estimate; a price of your own that is 61 days old, or 60."""
    path = write(folder / "a.jsonl", [*chats()])
    if code == "FT707":
        cost = count(validate(path), model="gpt-4.1", epochs=1).cost
        high = cost.high if cost and cost.high else 0.0
        return set(count(validate(path), model="gpt-4.1", epochs=1, max_cost=high - fault * 1e-6).summary.counts)
    prices = PriceTable.load({"gpt-4.1": {"training": 4.0, "as_of": DAY - dt.timedelta(60 + fault)}})
    return set(count(validate(path), model="gpt-4.1", prices=prices, today=DAY).summary.counts)


def small_validation(folder: Path, fault: bool) -> Codes:
    """Nine validation records are too few; ten of forty are enough."""
    validation = write(folder / "b.jsonl", [*chats(60)[50 : 59 + (not fault)]])
    return codes_of(write(folder / "a.jsonl", [*chats(40)]), validation=validation)


def sunset(folder: Path, fault: bool) -> Codes:
    """A base model that is shut down within ninety days, or later."""
    path = write(folder / "a.jsonl", [*chats()])
    return codes_of(path, model="gpt-4.1-mini", target="openai" if fault else "azure")


def heavy_prompt(folder: Path, fault: bool) -> Codes:
    """A system prompt of hundreds of tokens before a short answer, or before a long one."""
    answer = "yes " * (20 if fault else 400)
    first = {"role": "system", "content": "Note this. " * 120}
    rows: Lines = [{"messages": [first, *exchange(f"Number {n}?", answer)["messages"]]} for n in range(12)]
    return codes_of(write(folder / "a.jsonl", rows))


def too_many_for_host(folder: Path, fault: bool) -> Codes:
    """Bedrock accepts 20,000 reinforcement examples."""
    statistics = ScanStatistics(FileContext("a.jsonl", "bedrock", None, "", "rft"), examples=20_000 + fault)
    rules = [rule for rule in all_rules() if rule.code == "FT114"]
    return {rule.code for rule in rules if list(rule.check(statistics))}


def several_answers(folder: Path, fault: bool) -> Codes:
    """Two answers for a reasoning base of Together, or for one that is none."""
    row = {"messages": [*chat(0)["messages"], *chat(1)["messages"]]}
    base = "Qwen/Qwen3.5-9B" if fault else "openai/gpt-oss-20b"
    return codes_of(write(folder / "a.jsonl", [*chats(11), row]), target="together", model=base)


def preference_turns(folder: Path, fault: bool) -> Codes:
    """A pair about the third turn of a conversation, or about the first."""
    row = preference(0)
    row["input"]["messages"] = [*chat(1)["messages"] * fault, *row["input"]["messages"]]
    return codes_of(write(folder / "a.jsonl", [*(preference(n) for n in range(1, 12)), row]), target="fireworks")


FILE_EXAMPLES: dict[str, Example] = {
    "FT001": file_changed,
    "FT003": lambda f, fault: codes_of(write(f / f"a.{'txt' if fault else 'JSONL'}", [*chats()])),
    "FT005": lambda f, fault: codes_of(_with_prefix(f, b"\xef\xbb\xbf" if fault else b"")),
    "FT009": lambda f, fault: by_statistics("FT009", size=8 * 1024**3 + fault),
    "FT010": long_line,
    "FT109": lambda f, fault: codes_of(write(f / "a.jsonl", [*chats()]), method="dpo" if fault else "supervised"),
    "FT114": too_many_for_host,
    "FT224": several_answers,
    "FT509": preference_turns,
    "FT220": lambda f, fault: with_template(f, after_roles(*["user"] * fault), "mistral"),
    "FT222": lambda f, fault: with_template(f, exchange(), "endless" if fault else "gemma"),
    "FT403": heavy_image,
    "FT406": lambda f, fault: by_statistics("FT406", with_images=50_000 + fault),
    "FT409": model_without_vision,
    "FT604": reinforcement_job,
    "FT607": many_validation_records,
    "FT701": long_example,
    "FT702": lambda f, fault: long_example(f, True, last="assistant" if fault else "user"),
    "FT703": lambda f, fault: second_file(f, fault, key="validation"),
    "FT704": lambda f, fault: near_copy(f, fault, kind="two files"),
    "FT705": lambda f, fault: second_file(f, fault, key="test"),
    "FT706": outlier,
    "FT707": lambda f, fault: cost_estimate(f, fault, code="FT707"),
    "FT708": lambda f, fault: cost_estimate(f, fault, code="FT708"),
    "FT709": small_validation,
    "FT710": sunset,
    "FT711": heavy_prompt,
    "FT802": lambda f, fault: near_copy(f, fault, kind="same file"),
}  # fmt: skip


def _with_prefix(folder: Path, prefix: bytes) -> Path:
    path = write(folder / "a.jsonl", [*chats(), preference(0)])
    path.write_bytes(prefix + path.read_bytes())
    return path
