"""Rules that need more than one small file: what makes each fire, and what nearly does."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.rules import all_rules
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.paths import models_dir
from ftpipe.stages.count import count
from ftpipe.stages.validate import ScanObserver, validate
from tests.dataset.negative_examples import PNG, Lines, image, parts, said, told
from tests.dataset.samples import chat, chats, graded, preference, write
from tests.training.templates import SPECIAL

DAY = dt.date(2026, 11, 24)
Codes = set[str]
Situation = Callable[[Path, bool], Codes]
"""Given a folder and whether the fault is to be there, the codes that were found."""


def found(path: Path, **choices: Any) -> Codes:
    """Codes of everything that is found in a file."""
    return set(validate(path, **{"today": DAY, **choices}).summary.counts)


def by_statistics(code: str, *, size: int = 0, **figures: Any) -> Codes:
    """The codes that a rule about the whole file reports for the figures of a file too large to make."""
    statistics = ScanStatistics(FileContext("a.jsonl", "openai", None, "", "chat", size_bytes=size), **figures)
    rules = [rule for rule in all_rules() if rule.code == code and rule.scope == "file"]
    return {rule.code for rule in rules if list(rule.check(statistics))}


def base(name: str, template: str | None) -> str:
    """A model folder with a chat template, as the trainer would keep it; its name."""
    folder = models_dir() / name
    folder.mkdir(parents=True, exist_ok=True)
    source, special = SPECIAL[template] if template else ("", [])
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": source} if source else {}))
    added = [{"content": word, "special": True} for word in special]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return name


def on_base(folder: Path, row: dict[str, Any], template: str | None) -> Codes:
    """What is found in a file with one row of its own, for a base with this template."""
    path = write(folder / "rows.jsonl", [*chats(11), row])
    return found(path, target="local", model=base(f"base-{template}", template))


def changed(folder: Path, fault: bool) -> Codes:
    """Somebody writes to the file while it is read."""
    path = write(folder / "a.jsonl", [*chats()])

    def meddle(_done: int, _total: int) -> None:
        with path.open("ab") as file:
            file.write(b"\n")

    return found(path, **({"observer": ScanObserver(on_progress=meddle)} if fault else {}))


def long_line(folder: Path, fault: bool) -> Codes:
    """A line one byte longer than the limit, or as long as it."""
    size = len(json.dumps(chat(0), ensure_ascii=False))
    limit = CheckSettings(max_line_bytes=size - fault)
    return found(write(folder / "a.jsonl", [chat(0)]), settings=limit)


def heavy_image(folder: Path, fault: bool) -> Codes:
    """An image of a little more, or a little less, than 10 MB."""
    data = PNG + b"\x00" * (10 * 1024 * 1024 + (3000 if fault else -3000))
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    quick = CheckSettings(select=("FT403",), processes=1, engine="pure-python")
    return found(write(folder / "a.jsonl", [*chats(11), parts(image(url))]), settings=quick)


def seen(folder: Path, fault: bool) -> Codes:
    """The smaller model reads text only."""
    path = write(folder / "a.jsonl", [*chats(11), parts(image("https://a.org/b.png"))])
    return found(path, model="gpt-4.1-mini" if fault else "gpt-4.1")


def graded_job(folder: Path, fault: bool) -> Codes:
    """A reinforcement job with and without a validation file."""
    train = write(folder / "a.jsonl", [graded(n) for n in range(6)])
    held = write(folder / "b.jsonl", [graded(n) for n in range(6, 12)])
    return found(train, target="azure", for_job=True, validation=None if fault else held)


def many_graded(folder: Path, fault: bool) -> Codes:
    """1,000 validation rows are allowed."""
    rows = [{**graded(0), "answer": str(n)} for n in range(1000 + fault)]
    train = write(folder / "a.jsonl", [graded(n) for n in range(12)])
    return found(train, target="azure", validation=write(folder / "b.jsonl", [*rows]))


def long_example(folder: Path, fault: bool, *, last: str = "user") -> Codes:
    """The old model reads 4,096 tokens."""
    row = said("word " * (5000 if fault else 3000))
    if last == "user":
        row["messages"].append({"role": "user", "content": "Thanks."})
    return found(write(folder / "a.jsonl", [*chats(11), row]), model="gpt-3.5-turbo-0613", today=dt.date(2026, 1, 1))


def prose(number: int, word: str = "plain") -> dict[str, Any]:
    """A record of many words."""
    words = " ".join(f"{number}{place}" for place in range(120))
    return said(f"Tell me in {word} words of {words}", f"These are words about {number}.")


def near_copy(folder: Path, fault: bool, *, kind: str) -> Codes:
    """A record of which one word differs, or every word."""
    rows: list[Any] = [prose(n) for n in range(12)]
    other = prose(3, "clear") if fault else prose(13)
    settings = CheckSettings(near_duplicates=True)
    if kind == "same file":
        return found(write(folder / "a.jsonl", [*rows, other]), settings=settings)
    held = write(folder / "b.jsonl", [other])
    return found(write(folder / "a.jsonl", rows), validation=held, settings=settings)


def held_out(folder: Path, fault: bool, *, key: str) -> Codes:
    """The first training prompt stands in the other file, too, or one that is nearly so."""
    asked = chat(0)["messages"][0]["content"]
    other = write(folder / "b.jsonl", [said(asked if fault else f"{asked}!", "Yes.")])
    return found(write(folder / "a.jsonl", [*chats()]), **{key: other})


def outlier(folder: Path, fault: bool) -> Codes:
    """Ten times the median, or eight."""
    rows = [said(f"word {n}", "yes " * 10) for n in range(11)]
    return found(write(folder / "a.jsonl", [*rows, said("long", "yes " * (300 if fault else 120))]))


def priced(folder: Path, fault: bool, *, code: str) -> Codes:
    """A limit under or over the estimate; a price that is old, or a machine of one's own."""
    path = write(folder / "a.jsonl", [*chats()])
    if code == "FT707":
        cost = count(validate(path), model="gpt-4.1", epochs=1).cost
        high = cost.high if cost and cost.high else 0.0
        return set(count(validate(path), model="gpt-4.1", epochs=1, max_cost=high - fault * 1e-6).summary.counts)
    target, model = ("openai", "gpt-4.1") if fault else ("local", "smollm2-135m-instruct")
    return set(count(validate(path, target=target), model=model, today=DAY).summary.counts)


def small_validation(folder: Path, fault: bool) -> Codes:
    """Nine validation records are few, ten of forty are enough."""
    held = write(folder / "b.jsonl", [*chats(60)[50 : 59 + (not fault)]])
    return found(write(folder / "a.jsonl", [*chats(40)]), validation=held)


def sunset(folder: Path, fault: bool) -> Codes:
    """A base that ends within ninety days, or later."""
    path = write(folder / "a.jsonl", [*chats()])
    return found(path, model="gpt-4.1-mini", target="openai" if fault else "azure")


def heavy_prompt(folder: Path, fault: bool) -> Codes:
    """A system prompt of hundreds of tokens before a short answer, or before a long one."""
    answer = "yes " * (20 if fault else 400)
    first = {"role": "system", "content": "Mind this. " * 120}
    rows: Lines = [{"messages": [first, *said(f"Number {n}?", answer)["messages"]]} for n in range(12)]
    return found(write(folder / "a.jsonl", rows))


SITUATIONS: dict[str, Situation] = {
    "FT001": changed,
    "FT003": lambda f, fault: found(write(f / f"a.{'txt' if fault else 'JSONL'}", [*chats()])),
    "FT005": lambda f, fault: found(_marked(f, b"\xef\xbb\xbf" if fault else b"")),
    "FT009": lambda f, fault: by_statistics("FT009", size=8 * 1024**3 + fault),
    "FT010": long_line,
    "FT109": lambda f, fault: found(write(f / "a.jsonl", [*chats()]), method="dpo" if fault else "supervised"),
    "FT218": lambda f, fault: on_base(f, said("[INST] a" if fault else "[INSTALL] < s >"), "mistral"),
    "FT220": lambda f, fault: on_base(f, told(*["user"] * fault), "mistral"),
    "FT222": lambda f, fault: on_base(f, said(), "endless" if fault else "gemma"),
    "FT403": heavy_image,
    "FT406": lambda f, fault: by_statistics("FT406", with_images=50_000 + fault),
    "FT409": seen,
    "FT604": graded_job,
    "FT607": many_graded,
    "FT701": long_example,
    "FT702": lambda f, fault: long_example(f, True, last="assistant" if fault else "user"),
    "FT703": lambda f, fault: held_out(f, fault, key="validation"),
    "FT704": lambda f, fault: near_copy(f, fault, kind="two files"),
    "FT705": lambda f, fault: held_out(f, fault, key="test"),
    "FT706": outlier,
    "FT707": lambda f, fault: priced(f, fault, code="FT707"),
    "FT708": lambda f, fault: priced(f, fault, code="FT708"),
    "FT709": small_validation,
    "FT710": sunset,
    "FT711": heavy_prompt,
    "FT802": lambda f, fault: near_copy(f, fault, kind="same file"),
}  # fmt: skip


def _marked(folder: Path, mark: bytes) -> Path:
    path = write(folder / "a.jsonl", [*chats(), preference(0)])
    path.write_bytes(mark + path.read_bytes())
    return path
