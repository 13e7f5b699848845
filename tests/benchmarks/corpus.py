"""A chat corpus of real text for measuring: documentation and source code of the running Python and its packages."""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".py", ".md", ".rst", ".txt", ".pyi"}
ANSWER_CHARACTERS, QUESTION_CHARACTERS = (200, 4_000), (40, 900)
FILE_CHARACTERS = 40_000
"""Of one file, so that a long table of numbers does not fill the corpus."""
SYSTEMS = (
    "You are a careful senior engineer. Answer with code where code helps.",
    "You explain technical texts to beginners, in short sentences.",
    "You are the help desk of a software company. Be friendly and exact.",
)
FOREIGN = (
    "Wie setze ich mein Passwort zurück? Ich habe die Anleitung gelesen, finde den Schalter aber nicht.",
    "¿Dónde está mi pedido? Lo esperaba para el jueves — ¿podéis comprobarlo?",
    "これは注文番号です。配送状況を教えてください。よろしくお願いします。",
    "请把下面的文字翻译成英文，并解释其中的成语。",
    "Пожалуйста, отмените мой заказ и верните деньги на карту.",
    "안녕하세요, 결제가 두 번 되었습니다. 확인 부탁드립니다 🙏",
)


def texts(seed: int) -> Iterator[str]:
    """Text files of the standard library and the installed packages, in a fixed shuffled order."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = sorted({path for root in roots for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file()})
    random.Random(seed).shuffle(files)  # reproducible, not secret
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > 500:
            yield text[:FILE_CHARACTERS]


def rows(seed: int = 7) -> Iterator[dict[str, object]]:
    """Chat records without end; the same seed and machine give the same ones."""
    rng = random.Random(seed)
    turn = 0
    while True:
        turn += 1
        for text in texts(seed + turn):
            at = 0
            while at < len(text) - 500:
                question_length, answer_length = rng.randint(*QUESTION_CHARACTERS), rng.randint(*ANSWER_CHARACTERS)
                middle, end = at + question_length, at + question_length + answer_length
                question, answer = text[at:middle].strip(), whole_lines(text[middle:end])
                at = end
                if rng.random() < 0.1:
                    question = f"{rng.choice(FOREIGN)} {question}"
                messages = [
                    {"role": "user", "content": question or "Go on."},
                    {"role": "assistant", "content": answer or "Nothing."},
                ]
                if rng.random() < 0.7:
                    messages.insert(0, {"role": "system", "content": rng.choice(SYSTEMS)})
                yield {"messages": messages}


def whole_lines(text: str) -> str:
    """The complete lines of a piece of text, so that answers end like answers."""
    return (text[text.find("\n") + 1 : text.rfind("\n") + 1] or text).strip()


def write(path: Path, megabytes: int, seed: int = 7) -> Path:
    """Write a file of about so many megabytes, unless it exists."""
    target_bytes = megabytes * 1_000_000
    if path.exists() and abs(path.stat().st_size - target_bytes) < 200_000:
        return path
    written = 0
    with path.open("wb") as file:
        for row in rows(seed):
            line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            file.write(line)
            written += len(line)
            if written >= target_bytes:
                return path
    return path
