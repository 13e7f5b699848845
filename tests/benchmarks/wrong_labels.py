"""How many wrong labels ``ftpipe losses`` ranks highest: 12 answers are swapped among 200 rows.

``python -m tests.benchmarks.wrong_labels FOLDER`` writes the changed file, trains the default model on it for three
epochs at the embedded server, ranks the rows in each way, and prints how many of the 12 are among the 20 highest.
It takes about ten minutes on two CPU cores.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "data" / "support_desk"
ROWS, SWAPPED, TOP, SEED = 200, 12, 20, 7


def swap_labels(seed: int = SEED) -> tuple[list[dict[str, Any]], set[int]]:
    """The rows, and the lines whose answers were swapped with one of another queue."""
    names = ("train", "validation", "test")
    texts = [text for name in names for text in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    rows: list[dict[str, Any]] = [json.loads(text) for text in texts[:ROWS]]
    order = list(range(ROWS))
    random.Random(seed).shuffle(order)
    lines: set[int] = set()
    while len(lines) < SWAPPED:
        one = order.pop(0)
        other = next(index for index in order if queue(rows[index]) != queue(rows[one]))
        order.remove(other)
        first, second = rows[one]["messages"][-1], rows[other]["messages"][-1]
        first["content"], second["content"] = second["content"], first["content"]
        lines |= {one + 1, other + 1}
    return rows, lines


def queue(row: dict[str, Any]) -> str:
    """The first half of the answer."""
    return str(row["messages"][-1]["content"]).split("|")[0]


def ftpipe(*argv: str, folder: Path) -> dict[str, Any]:
    """The JSON document of a command."""
    command = [sys.executable, "-m", "ftpipe", *argv, "--json"]
    completed = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, Any] = json.loads(completed.stdout)
    return document


def main(folder: Path) -> None:
    """Swap labels, train, rank, and print how many were found."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, swapped = swap_labels()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "swapped.jsonl").write_text(text, encoding="utf-8")
    trained = ftpipe("train", "swapped.jsonl", "--epochs", "3", "--seed", str(SEED), folder=folder)
    ranked = ftpipe("losses", trained["model"]["id"], folder=folder)["ranking"]["rows"]
    keys = {"base": lambda row: row["base_loss"], "tuned": lambda row: row["tuned_loss"]}
    keys["delta"] = lambda row: row["tuned_loss"] - row["base_loss"]
    for name, key in keys.items():
        highest = sorted(ranked, key=key, reverse=True)[:TOP]
        found = sum(row["line"] in swapped for row in highest)
        sys.stdout.write(f"{name}: {found} of {SWAPPED} swapped rows are among the {TOP} highest of {ROWS}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
