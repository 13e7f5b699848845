"""Files of any encoding, compression and container are read as the records that are in them, or are named."""

from __future__ import annotations

import codecs
import gzip
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset import decoder, reader, tables
from ftpipe.dataset.source_readers import guessed_encoding, read_source_rows
from ftpipe.errors import DatasetError, MissingExtraError, UsageError

ROWS = [{"question": "Où est le café ?", "answer": "Là-bas – à gauche."}, {"question": "Zürich?", "answer": "„Ja“"}]
LINES = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS)
TABLE = "question;answer\r\n" + "".join(f"{row['question']};{row['answer']}\r\n" for row in ROWS)


def records(path: Path, **options: Any) -> list[dict[str, Any]]:
    """The records of a file of which every row can be read."""
    rows = list(read_source_rows(path, **options))
    assert [row.error for row in rows] == [""] * len(rows)
    return [row.record for row in rows]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (b"", "utf-16"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"", "utf-32"),
        (b"", "utf-32-be"),
        (b"", "cp1252"),
    ],
)
def test_encodings_are_detected(name: str, mark: bytes, encoding: str, tmp_path: Path) -> None:
    text = TABLE if name == "a.csv" else LINES
    assert records(write(tmp_path / name, mark + text.encode(encoding))) == ROWS


@pytest.mark.parametrize("text", [TABLE, LINES])
def test_compressed_files_are_read(text: str, tmp_path: Path) -> None:
    for name in ("a.csv.gz", "a.jsonl.gz", "a.bin"):
        assert records(write(tmp_path / name, gzip.compress(text.encode("utf-16")))) == ROWS


@pytest.mark.needs("zstandard")
def test_zstandard_files_are_read(tmp_path: Path) -> None:
    import zstandard

    packed = zstandard.ZstdCompressor().compress(LINES.encode())
    assert records(write(tmp_path / "a.jsonl.zst", packed * 2)) == ROWS * 2
    with pytest.raises(DatasetError, match="is damaged"):
        list(read_source_rows(write(tmp_path / "b.zst", packed[:-4] + b"1234")))


@pytest.mark.parametrize("change", [lambda data: data[:-12], lambda data: data[:20] + b"\x00\x01" + data[22:]])
def test_damaged_compression_is_named(change: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", change(gzip.compress(LINES.encode())))
    with pytest.raises(DatasetError, match=r"a.jsonl.gz is damaged: unpacking it with gzip failed"):
        list(read_source_rows(path))


def test_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "MIN_UNPACKED_LIMIT_BYTES", 100_000)
    monkeypatch.setattr(decoder, "CHUNK_BYTES", 10_000)
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1_000_000))
    assert path.stat().st_size * decoder.MAX_EXPANSION < 9_000_000
    with pytest.raises(DatasetError, match="unpacks to more than"):
        list(read_source_rows(path))


def test_guess_of_windows_1252_shows_a_word(tmp_path: Path) -> None:
    guess = guessed_encoding(write(tmp_path / "a.csv", TABLE.encode("cp1252")))
    assert guess is not None and guess.encoding == "cp1252" and guess.sample in ("Là-bas", "Zürich?;„Ja“", "„Ja“")
    assert guessed_encoding(write(tmp_path / "b.csv", TABLE.encode())) is None


def test_dash_before_a_capital_is_enough_for_the_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Frage;Antwort\nWann?;Mo–Sa\n".encode("cp1252"))
    assert records(path) == [{"Frage": "Wann?", "Antwort": "Mo–Sa"}]


@pytest.mark.parametrize("word", ["Mo–Sa", "A–Z", "Moment…und", "sagte“Ja”", "Wien—Graz"])
def test_punctuation_between_words_does_not_turn_off_the_guess(word: str, tmp_path: Path) -> None:
    text = f"Frage;Antwort\nWann geöffnet?;{word}, „täglich“\n"
    path = write(tmp_path / "a.csv", text.encode("cp1252"))
    assert records(path) == [{"Frage": "Wann geöffnet?", "Antwort": f"{word}, „täglich“"}]


@pytest.mark.parametrize(
    ("text", "encoding", "word"),
    [
        ("España;acción y año", "mac-roman", "Espa–a"),
        ("Größe;Königin öffnet", "cp850", "Gr”áe"),
        ("Привет мир;Да", "cp1251", "Ïðèâåò"),
    ],
)
def test_word_that_makes_no_sense_is_named(text: str, encoding: str, word: str, tmp_path: Path) -> None:
    """Among them letters that Windows-1252 reads as dashes and quotes."""
    path = write(tmp_path / "a.csv", f"question;answer\n{text}\n".encode(encoding))
    with pytest.raises(DatasetError, match=f"read as Windows-1252, “{word}.*” makes no sense") as caught:
        list(read_source_rows(path))
    assert "`--encoding NAME`" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет мир;Да", "cp1251"),
        ("zażółć gęślą;jaźń", "cp1250"),
        ("日本語;はい", "shift-jis"),
        ("你好;是", "gb18030"),
    ],
)
def test_other_encodings_are_named_and_can_be_given(text: str, encoding: str, tmp_path: Path) -> None:
    """They are not guessed: a wrong guess would change answers."""
    path = write(tmp_path / "a.csv", f"question;answer\n{text}\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"is not UTF-8: byte 0x.. in line 2 at column \d") as caught:
        list(read_source_rows(path))
    assert "--encoding" in caught.value.hint
    assert list(records(path, encoding=encoding)[0].values()) == text.split(";")
    with pytest.raises(UsageError, match="no text encoding 'cp999'"):
        list(read_source_rows(path, encoding="cp999"))


def test_broken_bytes_of_a_utf8_file_are_no_reason_for_another_encoding(tmp_path: Path) -> None:
    """Read as Windows-1252, all good letters would be wrong. In JSON Lines only the line is lost."""
    good = LINES.encode() * 20
    rows = list(read_source_rows(write(tmp_path / "a.jsonl", good + '{"question": "Zürich"}\n'.encode("cp1252"))))
    assert [row.record for row in rows[:-1]] == ROWS * 20
    assert rows[-1].error == "not UTF-8"
    table = write(tmp_path / "a.csv", TABLE.encode() * 20 + "Zürich;Bern\n".encode("cp1252"))
    with pytest.raises(DatasetError, match="in line 61 at column 2"):
        list(read_source_rows(table))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('sep=;\r\nq;a\r\n"x, y";"He said ""no""; left"\r\n', {"q": "x, y", "a": 'He said "no"; left'}),
        ("\ufeffsep=\t\r\nq\ta\r\n1,2,3\t4\r\n", {"q": "1,2,3", "a": "4"}),
        ('"Question\n(customer)";"Answer\r\n(agent)"\nhow, much?;ten\n', {"Question (customer)": "how, much?",
         "Answer (agent)": "ten"}),
        ("name, first;answer\na;b\nc;d\n", {"name, first": "a", "answer": "b"}),
        ("q|a\n1|2\n", {"q": "1", "a": "2"}),
        (",question,answer,\n0,a,b,\n", {"column 1": "0", "question": "a", "answer": "b"}),
        ('q,a\n"two\n\nlines",x\n', {"q": "two\n\nlines", "a": "x"}),
        ("q,a\r1,2\r", {"q": "1", "a": "2"}),
    ],
)  # fmt: skip
def test_tables_of_other_programs_are_read(text: str, expected: dict[str, str], tmp_path: Path) -> None:
    assert records(write(tmp_path / "a.csv", text.encode()))[0] == expected


def test_csv_error_in_the_header_names_the_line(tmp_path: Path) -> None:
    for text in ('"question,answer\n1,2\n', 'sep=,\n"question"x,answer\n'):
        with pytest.raises(DatasetError, match=rf"not valid CSV from line {text.count('sep') + 1} on"):
            list(read_source_rows(write(tmp_path / "a.csv", text.encode())))


def test_header_that_is_repeated_costs_its_row(tmp_path: Path) -> None:
    """As after ``cat a.csv b.csv``."""
    rows = list(read_source_rows(write(tmp_path / "a.csv", TABLE.encode("utf-8-sig") * 2)))
    assert [row.record for row in rows if not row.error] == ROWS * 2
    assert [(row.line, row.error) for row in rows if row.error] == [(4, "it repeats the header")]


@pytest.mark.parametrize(("has_header", "errors"), [(True, ["", "it repeats the header"]), (False, ["", "", ""])])
def test_header_of_numbers_that_is_repeated_costs_its_row(tmp_path: Path, has_header: bool, errors: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2\nhi,hello\n1,2\n", encoding="utf-8")
    assert [row.error for row in read_source_rows(path, has_header=has_header)] == errors


PAIRS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


@pytest.mark.parametrize(
    "document",
    [
        PAIRS,
        {"prompt": {"0": "a", "1": "c"}, "completion": {"0": "b", "1": "d"}},
        {"0": {"prompt": "a", "completion": "b"}, "1": {"prompt": "c", "completion": "d"}},
        {"columns": ["prompt", "completion"], "index": [0, 1], "data": [["a", "b"], ["c", "d"]]},
        {
            "schema": {"fields": [{"name": "index"}], "primaryKey": ["index"]},
            "data": [{"index": 0, **PAIRS[0]}, {"index": 1, **PAIRS[1]}],
        },
        {"prompt": ["a", "c"], "completion": ["b", "d"]},
        {"version": "1.0", "data": PAIRS},
        {"rows": [{"row_idx": index, "row": row} for index, row in enumerate(PAIRS)], "num_rows_total": 2},
    ],
    ids=["records", "columns", "index", "split", "table", "lists", "wrapped", "hub rows"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_documents_of_pandas_and_others_are_read(document: Any, indent: int | None, tmp_path: Path) -> None:
    assert records(write(tmp_path / "a.json", json.dumps(document, indent=indent).encode())) == PAIRS


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        {"data": {"prompt": "a"}, "annotations": [{"result": []}]},
        {"conversations": [{"from": "human", "value": "a"}]},
        {"prompt": "a", "completion": "b", "metadata": {"0": "x"}},
    ],
)
def test_single_record_is_not_taken_for_a_container(record: dict[str, Any], tmp_path: Path) -> None:
    assert records(write(tmp_path / "a.jsonl", json.dumps(record).encode())) == [record]
    assert records(write(tmp_path / "a.json", json.dumps(record, indent=1).encode())) == [record]


def test_document_with_several_lists_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps({"train": PAIRS, "test": PAIRS}, indent=1).encode())
    with pytest.raises(DatasetError, match="several lists of records: train, test"):
        list(read_source_rows(path))


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "prompt" : "z", "completion": "b"}',
        '{"messages": [{"role": "user", "content": "\\":"}, {"content": "b", "content": "c"}]}',
    ],
)
def test_key_that_stands_twice_costs_its_row_or_the_document(line: str, tmp_path: Path) -> None:
    rows = list(read_source_rows(write(tmp_path / "a.jsonl", f"{line}\n{LINES}".encode())))
    assert [row.record for row in rows[1:]] == ROWS
    assert "stands 2 times in one object" in rows[0].error
    with pytest.raises(DatasetError, match="stands 2 times in one object"):
        list(read_source_rows(write(tmp_path / "a.json", f"[{line}]".encode())))


def test_nan_of_python_is_a_missing_value(tmp_path: Path) -> None:
    """One that is deeper in a record has no such meaning, so its row is refused."""
    path = write(tmp_path / "a.jsonl", b'{"prompt": "a", "input": NaN}\n{"prompt": {"x": NaN}}\n')
    first, second = read_source_rows(path)
    assert (first.record, first.error) == ({"prompt": "a", "input": None}, "")
    assert second.error.startswith("not JSON")
    path = write(tmp_path / "a.json", b'[{"prompt": NaN}]')
    assert records(path) == [{"prompt": None}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"a": 1},\n {"a": }]', r"not valid JSON: Expecting value at line 2, column 8"),
        ("a.json", b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        ("a.json", b'[{"a": ' + b"9" * 5000 + b"}]", "a number is too long"),
        ("a.zip", b"PK\x03\x04" + bytes(60), "neither text nor a table"),
        ("a.pdf", b"%PDF-1.7\n", "neither text nor a table"),
        ("a.jsonl", bytes(range(256)), "not a text file"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        ("a.csv", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page"),
        ("a.gz", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "compressed twice"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else None,
)
def test_unreadable_file_is_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_source_rows(write(tmp_path / name, data)))
    assert caught.value.hint


def test_line_over_the_limit_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 100)
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n{"b": "' + b"x" * 1000 + b'"}\n{"c": 2}\n')
    assert [row.record or row.error for row in read_source_rows(path)] == [{"a": 1}, "the line is too long", {"c": 2}]


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)


def write_workbook(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    """A workbook as small as the format allows."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
    related = "".join(
        f'<Relationship Id="r{n}" Type="{relation}/worksheet" Target="worksheets/s{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types"></Types>')
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Type="{relation}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{relation}"><sheets>{listed}</sheets></workbook>'
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}/relationships">{related}</Relationships>'
        )
        for n, rows in enumerate(sheets.values(), 1):
            cells = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
            archive.writestr(f"xl/worksheets/s{n}.xml", SHEET.format(cells))
    return path


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return f'<c t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f"<c><v>{value}</v></c>"
    return f'<c t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'


@pytest.mark.needs("python_calamine")
def test_excel_workbook_is_read(tmp_path: Path) -> None:
    table: list[list[Any]] = [
        ["Question", "Answer", ""],
        ["How many?\nExactly.", 42],
        ["", ""],
        ["Pi?", 3.5],
        ["True?", True],
    ]
    path = write_workbook(tmp_path / "a.xlsx", {"Tickets": table, "Empty": []})
    assert records(path) == [
        {"Question": "How many?\nExactly.", "Answer": "42"},
        {"Question": "Pi?", "Answer": "3.5"},
        {"Question": "True?", "Answer": "TRUE"},
    ]


@pytest.mark.needs("python_calamine")
def test_excel_sheet_must_be_chosen_if_several_have_rows(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", {"One": [["q"], ["1"]], "Two": [["q"], ["2"]]})
    with pytest.raises(DatasetError, match="has 2 sheets with rows: 'One', 'Two'") as caught:
        list(read_source_rows(path))
    assert "--sheet 'One'" in caught.value.hint
    assert records(path, sheet="Two") == [{"q": "2"}]
    with pytest.raises(DatasetError, match="no sheet 'Three'"):
        list(read_source_rows(path, sheet="Three"))


@pytest.mark.needs("python_calamine")
def test_excel_bomb_and_damaged_workbook_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MIN_UNPACKED_LIMIT_BYTES", 1_000_000)
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b" " * 3_000_000)
    with pytest.raises(DatasetError, match="unpacks to 3,000,000 bytes"):
        list(read_source_rows(path))
    far = write_workbook(tmp_path / "far.xlsx", {"One": [["q", "a"], ["1", "2"]]})
    with zipfile.ZipFile(far, "a") as archive:
        archive.writestr("xl/worksheets/s2.xml", SHEET.format('<row r="1048576"><c r="XFD1048576"/></row>'))
    with pytest.raises(DatasetError, match="1,048,576 rows and 16,384 columns"):
        list(read_source_rows(far))
    with pytest.raises(DatasetError, match="cannot be read as an Excel workbook"):
        list(read_source_rows(write(tmp_path / "b.xlsx", b"PK\x03\x04" + bytes(100))))


def test_zstandard_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        list(read_source_rows(write(tmp_path / "a.zst", b"\x28\xb5\x2f\xfd" + bytes(9))))
    assert "ftpipe[zstd]" in caught.value.hint


def test_excel_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(MissingExtraError) as caught:
        list(read_source_rows(write_workbook(tmp_path / "a.xlsx", {"One": [["q"], ["1"]]})))
    assert "ftpipe[excel]" in caught.value.hint
