"""What people have becomes chat records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset import iter_records
from ftpipe.dataset.convert import convert
from ftpipe.errors import DatasetError

PAIR = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("a.jsonl", '{"prompt": "Where?\\n\\n###\\n\\n", "completion": " Here."}', "prompt/completion"),
        ("a.jsonl", '{"instruction": "Where?", "input": "", "output": "Here."}', "Alpaca"),
        (
            "a.jsonl",
            '{"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]}',
            "ShareGPT",
        ),
        ("a.json", '[\n {"question": "Where?", "answer": "Here."}\n]', "table"),
        ("a.csv", "Question,Answer\nWhere?,Here.\n", "table"),
        ("a.csv", "\ufeffQuestion;Answer;\r\nWhere?;Here.;\r\n", "table"),
        ("a.jsonl", '{"instruction": "Where?", "input": null, "output": "Here.", "history": []}', "Alpaca"),
        ("a.tsv", "prompt\tcompletion\nWhere?\tHere.\n", "prompt/completion"),
        ("a.jsonl", json.dumps({"messages": PAIR, "id": 4}), "chat"),
    ],
)
def test_each_known_shape_becomes_a_dialogue(name: str, text: str, source: str, tmp_path: Path) -> None:
    """The same question and answer, whatever they came in."""
    path = tmp_path / name
    path.write_text(text)
    result = convert(path, tmp_path / "out.jsonl")
    assert (result.source, result.records) == (source, 1)
    assert list(iter_records(result.output)) == [(1, {"messages": PAIR})]


def test_named_columns_and_a_system_message(tmp_path: Path) -> None:
    """Where names cannot be guessed; records without an answer are counted and left out."""
    path = tmp_path / "a.csv"
    path.write_text("mail,label\nWhere?,Here.\nWhen?,\n")
    result = convert(path, tmp_path / "out.jsonl", system="Be short.", columns=("mail", "label"))
    assert (result.records, result.skipped_total) == (1, 1)
    assert [str(row) for row in result.skipped] == ["row 2 (line 3), column label: it is empty"]
    assert next(iter_records(result.output))[1]["messages"] == [{"role": "system", "content": "Be short."}, *PAIR]


def test_nothing_to_convert_is_said(tmp_path: Path) -> None:
    """And no empty file stays behind."""
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(DatasetError):
        convert(path, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "left_out"),
    [
        ("a.csv", 'q,prompt,answer\r\n1,Where?,Here.\r\n2,"two\r\nlines",\r\n3,,x\r\n4,a,b,c\r\n', [
            "row 2 (line 3), column answer: it is empty",
            "row 3 (line 5), column prompt: it is empty",
            "row 4 (line 6): 4 columns, the header has 3",
        ]),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n\n{"prompt\n[]\n', [
            "row 2: no column is named like the answer (completion, answer, response, output …)",
            "row 3 (line 4): not JSON: unexpected end of data at column 9",
            "row 4 (line 5): not an object",
        ]),
        ("a.json", json.dumps([{"conversations": turns} for turns in (
            [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], [{"from": "elf", "value": "a"}],
            [{"from": "human", "value": None}],
            [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}],
            [],
        )]), [
            "row 2, column conversations[0]: nobody is known as 'elf'",
            "row 3, column conversations[0]: its value is no text",
            "row 4, column conversations[1]: it answers no call",
            "row 5, column conversations: it has no turn of the user",
        ]),
        ("b.jsonl", '{"messages": [{"role": "user", "content": "a"}], "tools": "[]"}\n{"messages": 1}\n'
         '{"messages": [{"role": "user", "content": "a"}], "tools": "["}\n', [
            "row 2, column messages: it is no list of messages",
            "row 3, column tools: it is no JSON",
        ]),
    ],
)  # fmt: skip
def test_a_row_that_is_left_out_is_named_with_its_column(
    name: str, text: str, left_out: list[str], tmp_path: Path
) -> None:
    """The good rows are converted, and nothing is lost without a word."""
    path = tmp_path / name
    path.write_bytes(text.encode())
    result = convert(path, tmp_path / "out.jsonl")
    assert [str(row) for row in result.skipped] == left_out
    assert (result.records, result.skipped_total) == (1, len(left_out))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("Frage;Antwort\nZürich?;Ja\n".encode("cp1252"), "line 2 at column 2"),
        (b'question,answer\na,b\nc,"d\n', "no CSV from line 3"),
        (b"question,answer,answer\na,b,c\n", "'answer' twice"),
        (b"", "no header line"),
        (b"question,answer\n", "it has no rows"),
        (b"a,b\n1,2\n", "no column is named like the question"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_place(data: bytes, says: str, tmp_path: Path) -> None:
    """Encoding, quotes, header; and no empty file stays behind."""
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        convert(path, tmp_path / "out.jsonl")
    assert says in caught.value.message and caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_a_named_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """Before anything is written."""
    path = tmp_path / "a.csv"
    path.write_text("mail,label\nWhere?,Here.\n")
    with pytest.raises(DatasetError) as caught:
        convert(path, tmp_path / "out.jsonl", columns=("mail", "labels"))
    assert "'labels'" in caught.value.message and "'label'" in caught.value.hint


def test_calls_of_a_sharegpt_dialogue_become_tool_calls(tmp_path: Path) -> None:
    """With their results, and the definitions that stood in a string."""
    turns = [("human", "Is it cold?"), ("function_call", '{"name": "weather", "arguments": {"city": "Oslo"}}'),
             ("observation", "cold"), ("gpt", "It is.")]  # fmt: skip
    record = {"conversations": [{"from": who, "value": what} for who, what in turns], "tools": "[]"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record]))
    (made,) = [row for _, row in iter_records(convert(path, tmp_path / "out.jsonl").output)]
    call = made["messages"][1]["tool_calls"][0]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert (
        made["messages"][2] == {"role": "tool", "tool_call_id": call["id"], "content": "cold"} and made["tools"] == []
    )


@pytest.mark.needs("pyarrow")
def test_parquet_is_read_by_row(tmp_path: Path) -> None:
    """Through the extra; an empty cell is named."""
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"question": ["Where?", "When?"], "answer": ["Here.", None]}), path)
    result = convert(path, tmp_path / "out.jsonl")
    assert [row for _, row in iter_records(result.output)] == [{"messages": PAIR}]
    assert [str(row) for row in result.skipped] == ["row 2, column answer: it is missing"]
