"""Conversion of other formats to chat JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.dataset import iter_records, reader
from ftpipe.dataset.conversion.convert import convert
from ftpipe.dataset.conversion.row import ConversionOptions
from ftpipe.dataset.reader import BLOCK_BYTES
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
def test_convert_reads_every_known_format(name: str, text: str, source: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    result = convert(path, tmp_path / "out.jsonl")
    assert (result.source_format, result.records) == (source, 1)
    assert list(iter_records(result.output)) == [(1, {"messages": PAIR})]


def test_convert_with_named_columns_and_system_message(tmp_path: Path) -> None:
    """Rows without an answer are counted and skipped."""
    path = tmp_path / "a.csv"
    path.write_text("mail,label\nWhere?,Here.\nWhen?,\n")
    result = convert(path, tmp_path / "out.jsonl", ConversionOptions(system="Be short.", columns=("mail", "label")))
    assert (result.records, result.skipped_total) == (1, 1)
    assert [str(row) for row in result.skipped] == ["row 2 (line 3), column label: it is empty"]
    assert next(iter_records(result.output))[1]["messages"] == [{"role": "system", "content": "Be short."}, *PAIR]


def test_convert_without_usable_rows_raises_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(DatasetError):
        convert(path, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", 'q,prompt,answer\r\n1,Where?,Here.\r\n2,"two\r\nlines",\r\n3,,x\r\n4,a,b,c\r\n', [
            "row 2 (line 3), column answer: it is empty",
            "row 3 (line 5), column prompt: it is empty",
            "row 4 (line 6): it has 4 columns, but the header has 3",
        ]),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n\n{"prompt\n[]\n', [
            "row 2: no column has a usual name for the answer (completion, answer, response, output …)",
            "row 3 (line 4): not JSON: unexpected end of data at column 9",
            "row 4 (line 5): not an object",
        ]),
        ("a.json", json.dumps([{"conversations": turns} for turns in (
            [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], [{"from": "elf", "value": "a"}],
            [{"from": "human", "value": None}],
            [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}],
            [],
        )]), [
            "row 2, column conversations[0]: unknown speaker 'elf'",
            "row 3, column conversations[0]: it has no text",
            "row 4, column conversations[1]: there is no call before this result",
            "row 5, column conversations: it has no turn of the user",
        ]),
        ("b.jsonl", '{"messages": [{"role": "user", "content": "a"}], "tools": "[]"}\n{"messages": 1}\n'
         '{"messages": [{"role": "user", "content": "a"}], "tools": "["}\n', [
            "row 2, column messages: it is not a list of messages",
            "row 3, column tools: it is not JSON",
        ]),
    ],
)  # fmt: skip
def test_convert_reports_skipped_rows_with_column(name: str, text: str, expected: list[str], tmp_path: Path) -> None:
    """The good rows are converted."""
    path = tmp_path / name
    path.write_bytes(text.encode())
    result = convert(path, tmp_path / "out.jsonl")
    assert [str(row) for row in result.skipped] == expected
    assert (result.records, result.skipped_total) == (1, len(expected))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Frage;Antwort\nЦюрих?;Да\n".encode("cp1251"), "line 2 at column 1"),
        (b'question,answer\na,b\nc,"d\n', "not valid CSV from line 3"),
        (b"question,answer,answer\na,b,c\n", "'answer' twice"),
        (b"", "no header line"),
        (b"question,answer\n", "it has no rows"),
        (b"a,b\n1,2\n", "no column has a usual name for the question"),
    ],
)
def test_convert_rejects_invalid_table_with_position(data: bytes, message: str, tmp_path: Path) -> None:
    """Encoding, quotes, header. No empty file is left."""
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        convert(path, tmp_path / "out.jsonl")
    assert message in caught.value.message and caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_convert_suggests_name_for_missing_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("mail,label\nWhere?,Here.\n")
    with pytest.raises(DatasetError) as caught:
        convert(path, tmp_path / "out.jsonl", ConversionOptions(columns=("mail", "labels")))
    assert "'labels'" in caught.value.message and "'label'" in caught.value.hint


def test_convert_sharegpt_calls_to_tool_calls(tmp_path: Path) -> None:
    """With their results, and with definitions that were in a string."""
    turns = [("human", "Is it cold?"), ("function_call", '{"name": "weather", "arguments": {"city": "Oslo"}}'),
             ("observation", "cold"), ("gpt", "It is.")]  # fmt: skip
    record = {"conversations": [{"from": who, "value": what} for who, what in turns], "tools": "[]"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record]))
    (converted,) = [row for _, row in iter_records(convert(path, tmp_path / "out.jsonl").output)]
    call = converted["messages"][1]["tool_calls"][0]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert (
        converted["messages"][2] == {"role": "tool", "tool_call_id": call["id"], "content": "cold"}
        and converted["tools"] == []
    )


@pytest.mark.needs("pyarrow")
def test_convert_reads_parquet_and_reports_empty_cells(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"question": ["Where?", "When?"], "answer": ["Here.", None]}), path)
    result = convert(path, tmp_path / "out.jsonl")
    assert [row for _, row in iter_records(result.output)] == [{"messages": PAIR}]
    assert [str(row) for row in result.skipped] == ["row 2, column answer: it is missing"]


@pytest.mark.slow
def test_convert_skips_too_long_and_undecodable_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines are not rows, and a byte order mark is ignored."""
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    good = json.dumps({"messages": PAIR}).encode()
    long = b'{"messages": "' + b"x" * (2 * BLOCK_BYTES) + b'"}'
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n\n" + long + b"\n\xff\nnull\n" + good)
    result = convert(path, tmp_path / "out.jsonl")
    assert result.records == 2
    assert [str(row) for row in result.skipped] == [
        "row 2 (line 3): the line is too long",
        "row 3 (line 4): not UTF-8",
        "row 4 (line 5): not an object",
    ]


def test_convert_spares_files_beside_the_output(tmp_path: Path) -> None:
    """Not even one that is called like a half-written output."""
    source, other = tmp_path / "a.jsonl", tmp_path / ".b.jsonl.part"
    source.write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    other.write_text("mine", encoding="utf-8")
    convert(source, tmp_path / "b.jsonl")
    assert other.read_text(encoding="utf-8") == "mine"
