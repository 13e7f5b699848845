"""``ftpipe convert``: output, exit codes and the check of the result."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.cli_runner import CliEnvironment


def test_convert_alpaca_and_csv(cli: CliEnvironment) -> None:
    """Alpaca and CSV become chat files that pass."""
    rows = [{"instruction": f"Add {n} and 1", "output": f"It is {n + 1}."} for n in range(12)]
    Path("alpaca.json").write_text(json.dumps(rows))
    ran = cli.run("convert", "alpaca.json", "--json")
    assert (ran.code, ran.document["records"]) == (0, 12)
    assert cli.run("prepare", ran.document["output"]).code == 0
    Path("t.csv").write_text("q,a\n" + "".join(f"what {n}?,it is {n}\n" for n in range(12)))
    assert cli.run("convert", "t.csv", "--columns", "q,a", "-o", "out.jsonl").code == 0
    assert cli.run("convert", "t.csv", "--columns", "q").code == 2


def test_convert_tells_format_rows_and_keys(cli: CliEnvironment) -> None:
    """In the terminal and in the JSON document."""
    rows = [{"instruction": f"Add {n}", "context": "1", "response": f"{n}.", "category": "sum"} for n in range(3)]
    Path("dolly.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"instruction": "x"}]))
    ran = cli.run("convert", "dolly.jsonl")
    assert ran.code == 0
    assert "3 records from Dolly" in ran.out
    assert "keys used     instruction (3), context (3), response (3)" in ran.out
    assert "keys ignored  category (3)" in ran.out
    assert "1 row skipped" in ran.err
    document = cli.run("convert", "dolly.jsonl", "-o", "b.jsonl", "--json").document
    assert (document["source_format"], document["records"], document["skipped_total"]) == ("Dolly", 3, 1)
    assert document["keys_ignored"] == {"category": 3}
    assert document["summary"]["errors"] == 0


def test_convert_checks_the_result(cli: CliEnvironment) -> None:
    """Errors of the written file are named, with exit code 1, by the rules of the configured provider."""
    Path("ftpipe.toml").write_text('provider = "openai"\n')
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    Path("a.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    ran = cli.run("convert", "a.jsonl")
    assert ran.code == 1
    assert "a.chat.jsonl was written, but it has 1 error: FT" in ran.err
    assert "ftpipe validate a.chat.jsonl" in ran.err


def test_convert_refuses_reasoning_until_it_is_told_what_to_do(cli: CliEnvironment) -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "add"}
    Path("a.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "2+2"}, message]}) + "\n")
    ran = cli.run("convert", "a.jsonl")
    assert (ran.code, Path("a.chat.jsonl").exists()) == (1, False)
    assert "--reasoning think" in ran.err
    assert cli.run("convert", "a.jsonl", "--reasoning", "think").code == 0
    assert "<think>" in Path("a.chat.jsonl").read_text()


def test_convert_pairs_good_and_bad_answers(cli: CliEnvironment) -> None:
    rows = [{"prompt": "p", "completion": text, "label": text == "good"} for text in ("good", "bad")]
    Path("kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = cli.run("convert", "kto.jsonl")
    assert "--to preference" in ran.err and "1 record from KTO" in ran.out
    ran = cli.run("convert", "kto.jsonl", "--to", "preference", "-o", "pairs.jsonl")
    assert (ran.code, "1 preference pair from KTO" in ran.out) == (0, True)


def test_convert_names_preference_pairs_so(cli: CliEnvironment) -> None:
    """A first row without a pair does not matter."""
    rows = [{"prompt": "p"}, {"prompt": "p", "chosen": "good", "rejected": "bad"}]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "pairs.preference.jsonl  1 preference pair" in cli.run("convert", "pairs.jsonl").out
    assert not Path("pairs.chat.jsonl").exists()
    assert cli.run("convert", "pairs.jsonl", "--to", "chat").code == 0
    assert Path("pairs.chat.jsonl").exists()


def test_convert_proposes_the_text_columns(cli: CliEnvironment) -> None:
    Path("a b.csv").write_text("Frage,Antwort\nWo?,Hier.\n")
    assert "next: ftpipe convert 'a b.csv' --columns Frage,Antwort\n" in cli.run("convert", "a b.csv").err
    Path("faq.csv").write_text("Nr,Meine Frage,Antwort\n1,Wo?,Hier.\n")
    error = " ".join(cli.run("convert", "faq.csv").err.split())
    assert "`ftpipe convert faq.csv --columns 'Meine Frage,Antwort'`, or choose from" in error and "Nr" in error


def test_convert_reads_a_table_without_header(cli: CliEnvironment) -> None:
    """The error names the option, and no row is lost."""
    Path("faq.csv").write_text("Wie lange dauert es?,Zwei Tage.\n1,2\nWo?,Hier.\n")
    for arguments in ((), ("--columns", "1,2")):
        error = " ".join(cli.run("convert", "faq.csv", *arguments).err.split())
        assert "There seems to be no header row: `ftpipe convert faq.csv --no-header --columns 1,2`" in error
    assert "3 records" in cli.run("convert", "faq.csv", "--no-header").out
    first = json.loads(Path("faq.chat.jsonl").read_text().splitlines()[0])
    assert [message["content"] for message in first["messages"]] == ["Wie lange dauert es?", "Zwei Tage."]
    assert cli.run("convert", "faq.csv", "--no-header", "--columns", "2,1", "-o", "b.jsonl").code == 0
    assert "no column '3'" in cli.run("convert", "faq.csv", "--no-header", "--columns", "1,3", "-o", "c.jsonl").err


def test_prepare_of_a_table_shows_only_the_command_that_converts_it(cli: CliEnvironment) -> None:
    Path("faq.csv").write_text("question,answer\nWhere?,Here.\n")
    ran = cli.run("prepare", "faq.csv")
    assert (ran.code, ran.out) == (1, "")
    assert "faq.csv: The file is a table (CSV)." in ran.err and ran.err.count("ftpipe convert faq.csv") == 1
    assert cli.run("prepare", "faq.csv", "--json").document["findings"][0]["code"] == "FT103"
