"""Every command that reads a dataset, on files that are broken or in another format: a diagnosis, never a traceback.

``FTPIPE_TEST_FUZZ_FILES=2000`` fuzzes for longer, ``FTPIPE_TEST_FUZZ_SEED`` with other files.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file
from tests.examples import examples

# read here, because the fixture own_home clears these variables before each test
FUZZ_FILES = int(os.environ.get("FTPIPE_TEST_FUZZ_FILES", str(examples(24, 48))))
FUZZ_SEED = int(os.environ.get("FTPIPE_TEST_FUZZ_SEED", "12"))
BATCHES = 4

CHAT = [{"role": "user", "content": "Où?"}, {"role": "assistant", "content": "Là – „hier“; \"there\", 'y'."}]
RECORDS: list[object] = [
    {"messages": CHAT},
    {"prompt": "a\n\n###\n\n", "completion": " b END"},
    {"instruction": "a", "input": None, "output": "b", "history": [["c", "d"]]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "tools": "[]"},
    {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]},
    {"input": {"messages": CHAT[:1]}, "preferred_output": CHAT[1:], "non_preferred_output": CHAT[1:]},
    {"contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}]},
    {"prompt": "a", "completion": "b", "label": False, "kto_tag": True},
    {"messages": json.dumps(CHAT), "weight": 0, "tools": [{"type": "function", "function": {"name": "f"}}]},
]
TABLES = [
    'question,answer\nWhere?,"Here, ""there"".\nAnd now?"\nnan,None\n',
    'sep=;\r\n"Question\n(customer)";Answer;\r\nhow much?;ten euros;\r\n',
    "id|messages\n1|" + json.dumps(CHAT) + "\n",
]
DOCUMENTS: list[object] = [
    RECORDS,
    {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}},
    {"columns": ["prompt", "completion"], "index": [0], "data": [["a", "b"]]},
    {"data": RECORDS[:2], "version": 1},
]
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "cp1251", "shift-jis")
SUFFIXES = (".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".gz", ".xlsx", ".parquet", ".zst", "")
PIECES = (
    *(b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b";", b"\n", b"\r", b"\t", b"\\", b"\x00", b"\xff", b"\xc3"),
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"9" * 4500, b"\\ud83d", b"\\u0000", b"\xed\xa0\x80"),
    *(b'{"a":' * 300, b"[" * 2000, b'"' * 3, b"messages", b"role", codecs.BOM_UTF8, codecs.BOM_UTF16_LE),
    *(b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\x28\xb5\x2f\xfd"),
)


def broken_file(rng: random.Random, number: int) -> tuple[str, bytes]:
    """Name and bytes of a file of some format, broken in up to four places."""
    kind = rng.randrange(3)
    if kind == 0:
        chosen = rng.choices(RECORDS, k=rng.randint(1, 14))
        text = "".join(f"{json.dumps(one, ensure_ascii=bool(rng.randrange(2)))}\n" for one in chosen)
    elif kind == 1:
        text = rng.choice(TABLES)
    else:
        text = json.dumps(rng.choice(DOCUMENTS), indent=rng.choice((None, 1)), ensure_ascii=False)
    data = text.encode(rng.choice(ENCODINGS), "replace")
    changes: tuple[Callable[[bytes, int], bytes], ...] = (
        lambda data, at: data[:at],
        lambda data, at: data[at:],
        lambda data, at: data[:at] + data[at + rng.randint(1, 9) :],
        lambda data, at: data[:at] + rng.choice(PIECES) + data[at:],
        lambda data, at: data[:at] + rng.choice(PIECES) + data[at:],
        lambda data, at: data[:at] + rng.randbytes(rng.randint(1, 4)) + data[at:],
        lambda data, at: data[:at] + data,
    )
    for _ in range(rng.randrange(5)):
        data = rng.choice(changes)(data, rng.randint(0, len(data)))
    suffix = rng.choice(SUFFIXES)
    if suffix == ".gz" and rng.randrange(4):
        data = gzip.compress(data)[: rng.choice((None, None, 20))]
    return f"f{number}{suffix}", data


def commands(path: str) -> list[list[str]]:
    """Every command that reads a dataset, with the options that write another one."""
    models = ["ft:gpt-4.1-mini:x::y", "--baseline", "gpt-4.1-mini", "--provider", "local"]
    return [
        ["validate", path],
        ["prepare", path, "--fix", "--unsafe-fixes", "--quarantine", "bad.jsonl", "--split", "0.3", "--force"],
        ["prepare", "good.jsonl", "--validation", path, "--holdout", path],
        ["convert", path, "--output", "out.jsonl", "--force"],
        ["split", path, "--output", "out", "--force"],
        ["advise", path],
        ["train", path, "--dry-run"],
        ["evaluate", *models, "--data", path, "--limit", "1"],
        ["losses", *models, "--data", path],
    ]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_broken_files_end_in_a_diagnosis(batch: int, cli: CliEnvironment) -> None:
    """Never exit code 70, never without a reason, and never with a traceback."""
    chat_file("good.jsonl")
    codes = set()
    for number in range(batch, FUZZ_FILES, BATCHES):
        rng = random.Random(FUZZ_SEED * 1_000_000 + number)
        name, data = broken_file(rng, number)
        Path(name).write_bytes(data)
        for argv in commands(name):
            ran = cli.run(*argv)
            codes.add(ran.code)
            where = f"{' '.join(argv)} with seed {FUZZ_SEED}, file {number}: {data[:300]!r}\n{ran.err}"
            assert ran.code in (0, 1, 2, 5), where
            assert "Traceback" not in ran.out + ran.err, where
            assert ran.code == 0 or ran.err.startswith(("error: ", "first finding")) or "\nerror: " in ran.err, where
        Path(name).unlink()
    assert {0, 1} <= codes


FOREIGN = {
    "table.csv": b"question,answer\nWhere?,Here.\n",
    "utf16.jsonl": (json.dumps({"messages": CHAT}) + "\n").encode("utf-16") * 12,
    "bare.jsonl": (json.dumps({"messages": CHAT}) + "\n").encode("utf-16-le") * 12,
    "rows.jsonl.gz": gzip.compress(b'{"messages": []}\n'),
    "rows.jsonl.zst": b"\x28\xb5\x2f\xfd" + bytes(9),
    "book.xlsx": b"PK\x03\x04" + bytes(99),
    "rows.parquet": b"PAR1" + bytes(99),
    "array.json": json.dumps(RECORDS[:1], indent=1).encode(),
    "share gpt.jsonl": (json.dumps(RECORDS[3]) + "\n").encode() * 12,
    "kto.jsonl": (json.dumps(RECORDS[7]) + "\n").encode() * 12,
    "vertex.jsonl": (json.dumps(RECORDS[6]) + "\n").encode() * 12,
    "table.txt": b"question;answer\nWhere?;Here.\nWhen?;Now.\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_named_with_the_command_that_converts_it(name: str, cli: CliEnvironment) -> None:
    """By every command, in the words of ``validate``."""
    Path(name).write_bytes(FOREIGN[name])
    good = str(chat_file("good.jsonl"))
    validated = cli.run("validate", name, "--json").document
    messages = [finding["message"] for finding in validated["files"][0]["findings"] if finding["severity"] == "error"]
    models = ["ft:gpt-4.1-mini:x::y", "--baseline", "gpt-4.1-mini", "--provider", "local"]
    for argv in (
        ["validate", name],
        ["prepare", name],
        ["prepare", good, "--validation", name],
        ["prepare", good, "--holdout", name],
        ["split", name],
        ["train", name, "--dry-run"],
        ["train", good, "--evaluate", name],
        ["advise", name],
        ["evaluate", *models, "--data", name],
        ["losses", *models, "--data", name],
    ):
        ran = cli.run(*argv)
        assert ran.code == 1, (argv, ran)
        quoted = f"'{name}'" if " " in name else name
        assert f"ftpipe convert {quoted}" in ran.err, (argv, ran.err)
        assert any(message in ran.out + ran.err for message in messages), (argv, ran)
    assert cli.paid_jobs == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "`git lfs pull` fetches it"),
        (b"\n<html><body>Sign in</body></html>\n", "is an HTML page"),
    ],
)
def test_file_in_place_of_the_data_is_named(data: bytes, reason: str, cli: CliEnvironment) -> None:
    """Conversion would not help, so it is not proposed."""
    Path("train.jsonl").write_bytes(data)
    for command in ("validate", "prepare", "split", "train", "convert", "advise"):
        ran = cli.run(command, "train.jsonl", *(["--output", "out"] if command == "split" else []))
        assert ran.code == 1 and reason in ran.out + ran.err and "ftpipe convert" not in ran.err, ran


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": "Z\xfcrich"}', "Byte 0xFC at column 16 is not UTF-8. (FT004)"),
        (b'{"messages": [}', "Not valid JSON: Expecting value at column 15. (FT101)"),
        (b"[1]", "The line is an array, not an object. (FT102)"),
        (b'{"messages": NaN}', "(FT105)"),
    ],
)
def test_broken_line_is_named_by_every_command(line: bytes, reason: str, cli: CliEnvironment) -> None:
    """None leaves it out without a word."""
    data = chat_file("all.jsonl")
    data.write_bytes(data.read_bytes() + b"\n" + line + b"\n")
    models = ["ft:gpt-4.1-mini:x::y", "--baseline", "gpt-4.1-mini", "--provider", "local"]
    for argv in (["split"], ["evaluate", *models, "--data"], ["losses", *models, "--data"]):
        ran = cli.run(*argv, str(data))
        assert ran.code == 1, ran
        assert "all.jsonl, line 14: " in ran.err and reason in ran.err
    assert reason[:-9] in cli.run("validate", str(data)).out
