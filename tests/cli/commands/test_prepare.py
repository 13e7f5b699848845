"""``prepare``: verdict, tokens, cost, files and the next command, as text and as a document."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment, chat_file

BAD_LINE = '{"messages":[{"content":"x"},{"role":"assistant","content":"y"}]}\n'


def test_prepare_shows_cost_and_next_command(cli: CliEnvironment) -> None:
    """Result on stdout, the way on stderr, nothing sent."""
    ran = cli.run("prepare", str(chat_file()))
    assert ran.code == 0
    assert "The embedded server would accept train.jsonl" in ran.out
    assert "smollm2-135m-instruct" in ran.out
    assert ran.err.count("free on your own machine") == 1
    assert "--provider openai" in ran.err
    assert ran.err.splitlines()[-1] == "Next: ftpipe train"
    assert not cli.server.calls


def test_prepare_and_train_use_the_same_provider(cli: CliEnvironment) -> None:
    """This machine, until one is chosen; then that one, until another is; the configuration wins."""
    data = str(chat_file())

    def providers() -> tuple[str, str]:
        prepared = cli.run("prepare", data, "--json").document["target"]
        return prepared, cli.run("train", data, "--dry-run", "--json").document["plan"]["provider"]

    assert providers() == ("local", "local")
    assert cli.run("prepare", data, "--provider", "azure").code == 0
    assert providers() == ("azure", "azure")
    for command in (("prepare", data), ("train", data, "--dry-run")):
        assert "provider azure, as chosen last" in cli.run(*command).err
    refused = cli.run("train", data, "--yes")
    assert (refused.code, cli.paid_jobs) == (2, 0)
    assert "add --provider azure" in refused.err
    Path("ftpipe.toml").write_text('provider = "nebius"\n')
    assert providers() == ("nebius", "nebius")
    Path("ftpipe.toml").unlink()
    assert cli.run("prepare", data, "--provider", "local").code == 0
    assert providers() == ("local", "local")


def test_prepare_for_a_hosted_model_after_a_local_choice(cli: CliEnvironment) -> None:
    """The last choice does not make a hosted model a local one: the model's provider checks, and train asks for it."""
    data = str(chat_file())
    assert cli.run("prepare", data, "--provider", "local").code == 0
    assert cli.run("prepare", data, "--model", "gpt-4.1", "--json").document["target"] == "openai"
    ran = cli.run("train", data, "--model", "gpt-4.1", "--dry-run")
    assert ran.code == 2
    assert "--provider openai" in ran.err


def test_prepare_json_has_dataset_tokens_and_cost(cli: CliEnvironment) -> None:
    """The fields that programs read."""
    data = chat_file()
    document = cli.run("prepare", str(data), "--epochs", "3", "--provider", "openai", "--json").document
    assert (document["schema"], document["ok"]) == ("ftpipe.prepare/1", True)
    assert document["dataset"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (document["dataset"]["examples"], document["dataset"]["format"]) == (12, "chat")
    assert document["summary"]["errors"] == 0
    assert document["tokens"]["encoding"] == "o200k_base"
    assert 0 < document["tokens"]["trained"] < document["tokens"]["total"]
    cost = document["cost"]
    assert (cost["currency"], cost["epochs"]) == ("USD", 3)
    assert cost["low"] == cost["expected"] == cost["high"] > 0
    assert document["next"] == "ftpipe train --provider openai --epochs 3"


def test_prepare_reports_line_and_path_and_writes_nothing(cli: CliEnvironment) -> None:
    """Exit 1, every finding in the document, no prepared files."""
    ran = cli.run("prepare", str(chat_file(extra=BAD_LINE)), "--json")
    findings = [finding for finding in ran.document["findings"] if finding["code"] == "FT204"]
    assert ran.code == 1
    assert (findings[0]["line"], findings[0]["path"], findings[0]["severity"]) == (13, "messages[0].role", "error")
    assert {"name", "message", "hint"} <= set(findings[0])
    assert ran.document["error"]["code"] == "dataset"
    assert not Path(".ftpipe").exists()


def test_prepare_writes_the_checked_bytes_and_a_manifest(cli: CliEnvironment) -> None:
    """What was checked is what will be trained with, and the manifest says where it came from."""
    data, held = chat_file(), chat_file("held.jsonl", rows=3, first=100)
    cli.run("prepare", str(data), "--validation", str(held), "--output", "out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert Path("out/train.jsonl").read_bytes() == data.read_bytes()
    assert Path("out/validation.jsonl").read_bytes() == held.read_bytes()
    assert [output["name"] for output in manifest["outputs"]] == ["train.jsonl", "validation.jsonl"]
    assert manifest["outputs"][0]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert manifest["source"]["path"] == str(data.absolute())


def test_prepare_split_checks_both_files(cli: CliEnvironment) -> None:
    """No record is lost, and both files are prepared."""
    document = cli.run("prepare", str(chat_file(rows=40)), "--split", "0.25", "--seed", "7", "--json").document
    assert document["dataset"]["examples"] + document["validation"]["examples"] == 40
    assert document["validation"]["examples"] > 0
    assert Path(document["prepared"]["validation"]).is_file()


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("gone.jsonl", None, 2, "did you mean"),
        ("empty.jsonl", b"", 1, "empty.jsonl"),
        ("binary.jsonl", bytes(range(256)) * 20, 1, "binary.jsonl"),
        ("array.jsonl", b'[{"messages": []}]', 1, "array.jsonl"),
    ],
)
def test_prepare_refuses_unusable_files_in_one_message(
    cli: CliEnvironment, name: str, content: bytes | None, code: int, says: str
) -> None:
    """Missing, empty, binary, an array: one clear message and the right code each."""
    chat_file("gone2.jsonl")
    if content is not None:
        Path(name).write_bytes(content)
    ran = cli.run("prepare", name)
    assert ran.code == code
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_prepare_folder_or_no_file_shows_a_hint(cli: CliEnvironment) -> None:
    """The hint says what to type."""
    assert "is a folder" in cli.run("prepare", ".").err
    assert "ftpipe prepare FILE" in cli.run("prepare").err


def test_prepare_next_command_repeats_options(cli: CliEnvironment) -> None:
    """A hosted model brings its provider along, so that the line works as it stands."""
    data = str(chat_file())
    named = cli.run("prepare", data, "--model", "gpt-4.1-2025-04-14", "--json").document
    assert named["next"] == "ftpipe train --provider openai --model gpt-4.1-2025-04-14"
    assert named["cost"]["model"] == "gpt-4.1-2025-04-14"
    assert cli.run("prepare", data, "--provider", "local", "--json").document["next"] == "ftpipe train --provider local"


def test_prepare_applies_the_rules_of_the_provider(cli: CliEnvironment) -> None:
    """Three examples are enough for this machine and too few for OpenAI."""
    data = str(chat_file(rows=3))
    assert cli.run("prepare", data, "--provider", "openai").code == 1
    ran = cli.run("prepare", data)
    assert ran.code == 0
    assert "free" in ran.out


def test_prepare_suggests_the_nearest_check_setting(cli: CliEnvironment) -> None:
    """The nearest right key is named."""
    data = chat_file()
    Path("ftpipe.toml").write_text("[checks]\nselct = ['FT2']\n")
    ran = cli.run("prepare", str(data))
    assert ran.code == 2
    assert "select" in ran.err


def test_prepare_sanitizes_text_of_the_data(cli: CliEnvironment) -> None:
    """Escapes, links and markup in a record never reach the terminal as such."""
    evil = '{"messages":[{"role":"us\\u001b]0;x\\u0007[/nope]\\u202e","content":"x"}]}\n'
    ran = cli.run("prepare", str(chat_file(extra=evil)))
    assert ran.code == 1
    assert "\x1b" not in ran.out + ran.err
    assert "\u202e" not in ran.out + ran.err


def test_prepare_select_and_ignore_rules(cli: CliEnvironment) -> None:
    """Codes and their beginnings, and a wrong one is refused with the nearest."""
    data = str(chat_file(extra=BAD_LINE))
    assert cli.run("prepare", data, "--ignore", "FT204").code == 0
    findings = cli.run("validate", data, "--select", "ft2", "--json").document["files"][0]["findings"]
    assert {finding["code"] for finding in findings} == {"FT204"}
    assert cli.run("prepare", data, "--select", "FT999").code == 2


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("github", "::error "),
        ("sarif", '"2.1.0"'),
        ("md", "| FT204"),
        ("gitlab", '"check_name": "FT204'),
        ("junit", "FT204 missing-role (error)"),
    ],
)
def test_prepare_output_formats_for_ci(cli: CliEnvironment, form: str, says: str) -> None:
    """Nothing else is on stdout."""
    ran = cli.run("prepare", str(chat_file(extra=BAD_LINE)), "--output-format", form)
    assert ran.code == 1
    assert says in ran.out
    assert "tokens" not in ran.out.splitlines()[0]


def test_findings_are_all_written_as_ndjson(cli: CliEnvironment) -> None:
    """To stdout or to a file; as many as the counts, those about cost included."""
    data = str(chat_file(extra=BAD_LINE * 70))
    findings = [json.loads(line) for line in cli.run("validate", data, "--output-format", "ndjson").out.splitlines()]
    assert sorted(f["line"] for f in findings if f["code"] == "FT204") == list(range(13, 83))
    ran = cli.run(
        "prepare", data, "--findings", "all.ndjson", "--max-cost", "0", "--provider", "openai", "--json"
    ).document
    lines = [json.loads(line) for line in Path("all.ndjson").read_text().splitlines()]
    assert sum(line["count"] for line in lines) == sum(ran["summary"]["counts"].values()) > len(ran["findings"])
    assert {"FT204", "FT707"} <= {line["code"] for line in lines}


def test_validate_checks_many_files_and_writes_nothing(cli: CliEnvironment) -> None:
    """One bad file makes the answer no, and every file is reported."""
    good, bad = str(chat_file()), str(chat_file("bad.jsonl", first=50, extra=BAD_LINE))
    ran = cli.run("validate", good, bad)
    assert ran.code == 1
    assert "would accept train.jsonl" in ran.out
    assert "would reject bad.jsonl" in ran.out
    assert "`ftpipe explain FT204` shows how to fix them" in ran.err
    document = cli.run("validate", good, bad, "--json").document
    assert [file["ok"] for file in document["files"]] == [True, False]
    assert not Path(".ftpipe").exists()
    assert cli.run("validate", good).code == 0


def test_prepare_fix_writes_a_new_file(cli: CliEnvironment) -> None:
    """The old file stays, the new one passes, and the diff and the counts are named."""
    data = chat_file()
    data.write_bytes(b"\xef\xbb\xbf" + data.read_bytes().replace(b"\n", b"\r\n"))
    before = data.read_bytes()
    document = cli.run("prepare", str(data), "--fix", "--json").document
    assert data.read_bytes() == before
    assert document["fixes"]
    assert Path(document["fixed"]["diff"]).is_file()
    fixed = Path(document["prepared"]["train"]).read_bytes()
    assert fixed == before.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")


def test_prepare_fix_keeps_what_it_removes_and_says_so(cli: CliEnvironment) -> None:
    """Without --unsafe-fixes nothing is removed; with it the removed keys are counted and kept."""
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "train": False}]}
    data = str(chat_file(extra=json.dumps(row) + "\n"))
    safe = cli.run("prepare", data, "--fix")
    assert safe.code == 1
    assert "nothing to fix" in safe.err
    ran = cli.run("prepare", data, "--unsafe-fixes")
    assert "removed: 1 entry, kept in .ftpipe/" in ran.err
    fixed = cli.run("prepare", data, "--unsafe-fixes", "--json").document["fixed"]
    assert fixed["removed"]["count"] == 1
    [entry] = map(json.loads, Path(fixed["removed"]["file"]).read_text().splitlines())
    assert (entry["rule"], entry["path"], entry["value"]) == ("FT214", "messages[1].train", False)


def test_prepare_fix_removes_shared_records_from_the_validation_file(cli: CliEnvironment) -> None:
    """Both files are fixed; the training file keeps its records."""
    data, validation = str(chat_file()), str(chat_file("validation.jsonl", first=11, rows=12))
    assert cli.run("prepare", data, "--validation", validation).code == 1
    document = cli.run("prepare", data, "--validation", validation, "--unsafe-fixes", "--json").document
    assert (document["ok"], document["fixes"], document["validation_fixes"]) == (True, {}, {"FT703": 1})
    assert (document["dataset"]["examples"], document["validation"]["examples"]) == (12, 11)
    assert document["fixed_validation"]["removed"]["count"] == 1


def test_prepare_split_excludes_a_validation_file(cli: CliEnvironment) -> None:
    """The one of the configuration is not used, so that its faults do not stop the split."""
    data, validation = str(chat_file(rows=40)), str(chat_file("validation.jsonl", rows=5))
    assert cli.run("prepare", data, "--validation", validation, "--split", "0.2").code == 2
    Path("ftpipe.toml").write_text('validation = "validation.jsonl"\n')
    assert cli.run("prepare", data).code == 1
    document = cli.run("prepare", data, "--split", "0.2", "--json").document
    assert (document["ok"], document["validation"]["examples"]) == (True, 8)


def test_prepare_fix_of_clean_data_writes_no_second_file(cli: CliEnvironment) -> None:
    """One report, no copy without a change, and the next command."""
    ran = cli.run("prepare", str(chat_file()), "--fix")
    assert ran.code == 0
    assert "nothing to fix" in ran.err
    assert ran.out.count("would accept") == 1
    assert not list(Path(".ftpipe").rglob("fixed.jsonl*"))
    assert ran.err.splitlines()[-1] == "Next: ftpipe train"


def test_prepare_quarantine_that_leaves_too_little_says_so(cli: CliEnvironment) -> None:
    """The rest has an error: fewer than ten examples."""
    data = str(chat_file(rows=5, extra=BAD_LINE * 8))
    ran = cli.run("prepare", data, "--provider", "openai", "--quarantine", "bad.jsonl")
    assert ran.code == 1
    assert "also without the lines that were moved" in ran.err


def test_prepare_at_paid_provider_offers_free_training(cli: CliEnvironment) -> None:
    """The command names the local provider, so that it differs from the next one."""
    ran = cli.run("prepare", str(chat_file()), "--provider", "openai")
    assert "free on your own machine: ftpipe train --provider local" in ran.err
    assert ran.err.splitlines()[-1] == "Next: ftpipe train --provider openai"


def test_prepare_quarantine_moves_lines_with_errors(cli: CliEnvironment) -> None:
    """What is left passes, and nothing is lost."""
    data = chat_file(extra=BAD_LINE + "not json\n")
    ran = cli.run("prepare", str(data), "--quarantine", "bad.jsonl")
    assert ran.code == 0
    assert Path("bad.jsonl").read_text() == BAD_LINE + "not json\n"
    assert "2 lines moved" in ran.err


def test_prepare_report_is_written_for_data_with_errors(cli: CliEnvironment) -> None:
    """One self-contained file, and the verdict stays what it is."""
    ran = cli.run("prepare", str(chat_file(extra=BAD_LINE)), "--report", "report.html")
    assert ran.code == 1
    assert "<html" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["prepare", "validate"])
def test_prepare_near_duplicates_need_the_package(
    cli: CliEnvironment, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """One line says what was not checked and what to install; none if the check is turned off."""
    data, held = str(chat_file()), str(chat_file("held.jsonl", rows=3, first=100))
    both = [data, "--validation", held] if command == "prepare" else [data]

    def lines(*argv: str) -> list[str]:
        return [line for line in cli.run(command, *argv).out.splitlines() if "not checked" in line]

    def field(*argv: str) -> list[str]:
        document = cli.run(command, *argv, "--json").document
        findings: list[str] = document["not_checked"] if command == "prepare" else document["files"][0]["not_checked"]
        return findings

    monkeypatch.setattr("ftpipe.dataset.duplicates.near.is_available", lambda: False)
    assert len(lines(*both)) == 1
    assert "near duplicates" in lines(*both)[0]
    assert "pip install 'ftpipe[fast]'" in lines(*both)[0]
    assert [text.partition(":")[0] for text in field(*both)] == ["near duplicates"]
    assert (lines(data, "--ignore", "FT802,FT704"), field(data, "--ignore", "FT802,FT704")) == ([], [])
    Path("ftpipe.toml").write_text("[checks]\nnear_duplicates = false\n", encoding="utf-8")
    assert (lines(*both), field(*both)) == ([], [])


def test_prepare_checks_near_duplicates_with_the_package(cli: CliEnvironment) -> None:
    """Nothing was left out."""
    pytest.importorskip("rensa")
    ran = cli.run("prepare", str(chat_file()))
    assert "not checked" not in ran.out
    assert cli.run("prepare", str(chat_file()), "--json").document["not_checked"] == []


def test_prepare_output_spares_files_that_it_did_not_write(cli: CliEnvironment) -> None:
    """A folder with files of these names but without a manifest is refused; one that was prepared is used again."""
    data = chat_file()
    Path("mine").mkdir()
    Path("mine/validation.jsonl").write_text("precious\n", encoding="utf-8")
    ran = cli.run("prepare", str(data), "--output", "mine")
    assert (ran.code, "has not written it" in ran.err) == (2, True)
    assert [path.name for path in Path("mine").iterdir()] == ["validation.jsonl"]
    assert Path("mine/validation.jsonl").read_text(encoding="utf-8") == "precious\n"
    held = chat_file("held.jsonl", rows=3, first=100)
    assert cli.run("prepare", str(data), "--validation", str(held), "--output", "out").code == 0
    assert cli.run("prepare", str(data), "--output", "out").code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["manifest.json", "train.jsonl"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nofile.jsonl", "check the path"),
        ("faq.chat.jsonl", "check the path"),
        ("pair.chat.jsonl", "pairs.chat.jsonl?"),
    ],
)
def test_prepare_suggests_a_file_by_its_stem(cli: CliEnvironment, name: str, says: str) -> None:
    """A shared extension makes no name similar."""
    for other in ("kto.jsonl", "pairs.chat.jsonl"):
        chat_file(other)
    assert says in cli.run("prepare", name).err


def test_prepare_split_quiet_shows_one_report(cli: CliEnvironment) -> None:
    """That of the halves; that of the whole only if it has errors."""
    data = str(chat_file(rows=40))
    assert cli.run("prepare", data, "--split", "0.25").out.count("would accept") == 2
    assert cli.run("prepare", data, "--split", "0.25", "--quiet").out.count("would accept") == 1
    bad = cli.run("prepare", str(chat_file("bad.jsonl", extra=BAD_LINE)), "--split", "0.25", "--quiet")
    assert bad.code == 1 and "FT204" in bad.out


def test_prepare_fix_names_unsafe_fixes_and_the_file_of_the_lines(cli: CliEnvironment) -> None:
    data = chat_file(extra='{"messages":[{"role":"User","content":"x"},{"role":"assistant","content":"y"}]}\n')
    data.write_bytes(data.read_bytes().replace(b"\n", b"\r\n"))
    ran = cli.run("prepare", str(data), "--fix")
    assert ran.code == 1
    assert "; 1 more with --unsafe-fixes; the lines are those of .ftpipe/prepared/" in ran.err
    assert "--unsafe-fixes" not in cli.run("prepare", str(data)).err


@pytest.mark.parametrize(("rows", "split", "is_noted"), [(16, "0.2", False), (60, "0.05", True), (60, "0.5", True)])
def test_prepare_split_notes_the_size_of_validation(cli: CliEnvironment, rows: int, split: str, is_noted: bool) -> None:
    """A fifth of 16 rows is what the note advises; a twentieth of 60 is too little, and half of them too much."""
    codes = [
        f["code"]
        for f in cli.run("prepare", str(chat_file(rows=rows)), "--split", split, "--json").document["findings"]
    ]
    assert ("FT709" in codes) is is_noted


def test_prepare_fix_shows_one_report(cli: CliEnvironment) -> None:
    """That of the fixed data: what was fixed is listed above it."""
    data = chat_file()
    data.write_bytes(data.read_bytes().replace(b"\n", b"\r\n"))
    ran = cli.run("prepare", str(data), "--fix")
    assert ran.code == 0
    assert ran.out.count("examples · ") == 1
    assert "FT006" not in ran.out
    assert ran.err.startswith("fixed: ") and "FT006 ×12" in ran.err


def test_prepare_show_mask_shows_what_is_trained(cli: CliEnvironment) -> None:
    """Of the first row or of a line, as text, in the document and in the page."""
    data = str(chat_file())
    ran = cli.run("prepare", data, "--show-mask", "--report", "page.html")
    assert ran.code == 0 and "\nline 1: " in ran.out and "trained: learned" in ran.out
    assert "What is learned of a row" in Path("page.html").read_text(encoding="utf-8")
    (mask,) = cli.run("prepare", data, "--show-mask", "3", "--json").document["masks"]
    assert mask["line"] == 3 and {token["kind"] for token in mask["tokens"]} == {"control", "prompt", "trained"}
    refused = cli.run("prepare", data, "--show-mask", "99")
    assert refused.code == 2 and "choose a line from 1 to 12" in refused.err
    assert cli.run("prepare", data, "--show-mask", "0").code == 2
    assert "<answer> at the end and a role, such as <user>, stand for control tokens" in ran.out


def test_prepare_for_another_host_finds_and_fixes_what_it_refuses(cli: CliEnvironment) -> None:
    """OpenAI accepts the file; Together gets a new one, and the old one does not change."""
    turns = [
        {"role": role, "content": f"turn {n}"} for n, role in enumerate(("developer", "user", "user", "assistant"))
    ]
    path = chat_file(extra=json.dumps({"messages": turns, "parallel_tool_calls": False}) + "\n")
    before = path.read_bytes()
    assert cli.run("prepare", str(path), "--provider", "openai").code == 0
    refused = cli.run("prepare", str(path), "--provider", "together", "--json")
    assert refused.code == 1
    assert {"FT110", "FT213", "FT219"} <= refused.document["summary"]["counts"].keys()
    fixed = cli.run("prepare", str(path), "--provider", "together", "--fix", "--unsafe-fixes", "--json")
    assert fixed.code == 0, fixed.out
    assert fixed.document["summary"]["errors"] == 0
    assert path.read_bytes() == before
