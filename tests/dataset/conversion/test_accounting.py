"""What a conversion says about rows, keys, markers and negative examples."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.conversion.convert import ConversionResult, convert, purpose_of
from ftpipe.dataset.conversion.row import ConversionOptions
from ftpipe.errors import DatasetError


def run(folder: Path, records: list[dict[str, Any]], **options: Any) -> ConversionResult:
    """Convert the records; a later call replaces the result of an earlier one."""
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return convert(path, folder / "out.jsonl", ConversionOptions(**options), force=True)


def rows(done: ConversionResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.output.read_text(encoding="utf-8").splitlines()]


def answers(done: ConversionResult) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows(done)]


def legacy(completions: list[str], end: str = " ->") -> list[dict[str, Any]]:
    return [{"prompt": f"p{number}{end}", "completion": text} for number, text in enumerate(completions)]


@pytest.mark.parametrize(
    ("completions", "prompt_end", "expected"),
    [
        ([" yes END", " no END"], " ->", ["yes", "no"]),
        ([" yes###", " no###"], "", ["yes", "no"]),
        ([" yes\n###", " no\n###"], "\n\n###\n\n", ["yes", "no"]),
        (["SELECT 1 END", "SELECT 2 END"], "", ["SELECT 1 END", "SELECT 2 END"]),
        (["WEEKEND", "THE END"], "", ["WEEKEND", "THE END"]),
        ([" yes END", " no END", *[" other"] * 8], "", [" yes END", " no END", *[" other"] * 8]),
        ([" return 1", " return 2"], "", [" return 1", " return 2"]),
        (["    return 1", "    return 2"], " ->", ["    return 1", "    return 2"]),
        ([*[" yes END"] * 39, " the WEEKEND"], " ->", [*["yes"] * 39, "the WEEKEND"]),
    ],
)
def test_markers_are_stripped_only_where_nearly_all_rows_carry_them(
    completions: list[str], prompt_end: str, expected: list[str], tmp_path: Path
) -> None:
    done = run(tmp_path, legacy(completions, prompt_end))
    assert answers(done) == expected
    assert [row["messages"][0]["content"] for row in rows(done)] == [f"p{n}" for n in range(len(completions))]
    assert bool(done.stripped) == (expected != completions or bool(prompt_end))


def test_other_formats_are_never_stripped(tmp_path: Path) -> None:
    texts = ["a ###", "b ###", " c END"]
    done = run(tmp_path, [{"instruction": "i", "input": "", "output": text} for text in texts])
    assert (answers(done), done.stripped) == (texts, "")


def test_every_key_of_every_row_is_counted(tmp_path: Path) -> None:
    """Used or ignored; keys without a value are neither."""
    done = run(
        tmp_path,
        [
            {"question": "a", "answer": "b", "category": "x", "url": None, "id": 1},
            {"question": "c", "answer": "d", "category": "y", "tags": []},
            {"messages": [{"role": "user", "content": "a", "at": 1}, {"role": "assistant", "content": "b", "at": 2}]},
        ],
    )
    assert done.keys_used == {
        "question": 2, "answer": 2, "messages": 1, "messages[].role": 2, "messages[].content": 2
    }  # fmt: skip
    assert done.keys_ignored == {"category": 2, "id": 1, "messages[].at": 2}
    assert done.formats == {"table": 2, "chat": 1}


def test_key_that_changes_the_meaning_refuses_the_file(tmp_path: Path) -> None:
    """Also in a late row; the message names row, key and the way out, and no file is left."""
    good = {"question": "a", "answer": "b"}
    with pytest.raises(DatasetError) as caught:
        run(tmp_path, [good, good, {**good, "sample_weight": 0.5}])
    assert "row 3 sample_weight" in caught.value.message and "--ignore-key sample_weight" in caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()
    done = run(tmp_path, [{**good, "sample_weight": 0.5}], ignored_keys=frozenset({"sampleweight"}))
    assert done.keys_ignored == {"sample_weight": 1}


KTO = [
    {"prompt": "p", "completion": "good 1", "label": True},
    {"prompt": "p", "completion": "bad 1", "label": False},
    {"prompt": "p", "completion": "good 2", "label": True},
    {"prompt": "q", "completion": "bad 2", "label": False},
]


def test_negative_examples_are_left_out_by_name(tmp_path: Path) -> None:
    done = run(tmp_path, KTO)
    assert answers(done) == ["good 1", "good 2"]
    assert done.skipped_reasons == {"it is a negative example, which must not be learnt": 2}
    assert (done.source_format, done.purpose, done.pairs_possible) == ("KTO", "chat", 1)


def test_negative_examples_are_paired_on_request(tmp_path: Path) -> None:
    done = run(tmp_path, KTO, purpose="preference")
    assert rows(done) == [
        {
            "input": {"messages": [{"role": "user", "content": "p"}]},
            "preferred_output": [{"role": "assistant", "content": "good 1"}],
            "non_preferred_output": [{"role": "assistant", "content": "bad 1"}],
        }
    ]
    assert done.skipped_reasons == {"no answer to the same prompt has the other label": 2}


@pytest.mark.parametrize("words", [("True", "False"), ("1", "0"), ("true", "false")])
def test_negative_examples_of_a_table(words: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,completion,label\np,good,{words[0]}\np,bad,{words[1]}\n", encoding="utf-8")
    assert answers(convert(path, tmp_path / "out.jsonl")) == ["good"]


def test_file_of_negative_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="negative example"):
        run(tmp_path, [KTO[1], KTO[3]])


def test_preference_pairs_become_chat_on_request(tmp_path: Path) -> None:
    record = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    done = run(tmp_path, [record], purpose="chat")
    assert (answers(done), done.keys_ignored) == (["good"], {"rejected": 1})


def test_rows_of_another_purpose_are_left_out(tmp_path: Path) -> None:
    done = run(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "completion": "c"}])
    assert (done.records, done.purpose) == (1, "preference")
    assert list(done.skipped_reasons) == ["it has one answer (prompt/completion), and no other to compare it with"]


def test_missing_words_of_a_table_are_not_answers(tmp_path: Path) -> None:
    """In JSON, which has null, they are text.

    Source: https://github.com/unslothai/unsloth/pull/10813, https://github.com/huggingface/datasets/issues/4467
    """
    path = tmp_path / "a.csv"
    path.write_text("question,context,answer\na,nan,b\nc,,NaN\nd,,None\ne,,\n", encoding="utf-8")
    done = convert(path, tmp_path / "out.jsonl")
    assert [row["messages"][0]["content"] for row in rows(done)] == ["a"]
    assert len(done.skipped) == 3 and "--keep-nan" in done.skipped[0].reason
    with_nan = convert(path, tmp_path / "nan.jsonl", ConversionOptions(keeps_nan=True))
    assert answers(with_nan) == ["b", "NaN", "None"]


@pytest.mark.parametrize(("name", "encoding"), [("a.txt", "utf-8"), ("a.txt", "utf-16"), ("a.gz", "utf-8")])
def test_missing_cells_of_a_table_without_a_telling_name_are_not_learnt(
    tmp_path: Path, name: str, encoding: str
) -> None:
    raw = "question;answer\nHi;Hello\nWhat;nan\nWho;me\n".encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    done = convert(path, tmp_path / "out.jsonl")
    assert answers(done) == ["Hello", "me"]
    assert [row.column for row in done.skipped] == ["answer"]


def test_encoding_that_a_table_is_not_in_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("question;answer\nHi;Hello\n", encoding="utf-16-le")
    options = ConversionOptions(encoding="utf-16")
    with pytest.raises(DatasetError, match=r"cannot be decoded as utf-16"):
        purpose_of(path, options)
    with pytest.raises(DatasetError, match=r"cannot be decoded as utf-16"):
        convert(path, tmp_path / "out.jsonl", options)
    assert answers(run(tmp_path, [{"question": "0/0 in JavaScript?", "answer": "NaN"}])) == ["NaN"]


@pytest.mark.parametrize("text", ["[{t}]\n[{t}]\n", "[[{t}], [{t}]]", "[\n  [{t}],\n  [{t}]\n]\n"])
def test_conversations_without_an_object_around_them(text: str, tmp_path: Path) -> None:
    """One in each line, or a list of them."""
    turns = '{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}'
    path = tmp_path / "a.json"
    path.write_text(text.replace("{t}", turns), encoding="utf-8")
    assert answers(convert(path, tmp_path / "out.jsonl")) == ["b", "b"]


def test_named_columns_can_hold_messages(tmp_path: Path) -> None:
    record = {"chat_so_far": [{"role": "user", "content": "a"}], "best": "b", "other": "c"}
    done = run(tmp_path, [record], columns=("chat_so_far", "best"))
    assert rows(done) == [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ] and done.keys_ignored == {"other": 1}  # fmt: skip
