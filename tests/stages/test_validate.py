"""Stage 1 finds every fault in one pass, and none in good files of any format."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.check_settings import CheckSettings, Ignore, Threshold, settings_from
from ftpipe.errors import ConfigError, UsageError
from ftpipe.records import DatasetFormat, Method, Report
from ftpipe.stages.validate import validate
from tests.dataset.samples import chat, chats, graded, preference, write


def errors(report: Report) -> list[str]:
    """Codes of the errors."""
    return [f.code for f in report.findings if f.severity == "error"]


@pytest.mark.parametrize(
    ("make", "kind", "method"),
    [
        (chat, DatasetFormat.CHAT, Method.SUPERVISED),
        (preference, DatasetFormat.DPO, Method.DPO),
        (graded, DatasetFormat.RFT, Method.REINFORCEMENT),
    ],
)
def test_validate_good_file_has_format_and_no_errors(
    tmp_path: Path, make: Callable[[int], dict[str, Any]], kind: DatasetFormat, method: Method
) -> None:
    """Each format brings its method with it."""
    report = validate(write(tmp_path / "good.jsonl", [make(i) for i in range(12)]))
    assert (errors(report), report.dataset.format, report.method) == ([], kind, method)
    assert report.ok and report.dataset.examples == 12


def test_validate_reports_all_faults_in_one_pass(tmp_path: Path) -> None:
    """A broken line does not hide those after it."""
    rows: list[dict[str, object] | bytes] = [*chats(9), b"{", b"[]", {"messages": []}, {"messages": [{"content": "x"}]}]
    report = validate(write(tmp_path / "bad.jsonl", rows))
    assert [(f.line, f.code) for f in report.findings if f.line] == [
        (10, "FT101"), (11, "FT102"), (12, "FT202"), (13, "FT204"), (13, "FT209"),
    ]  # fmt: skip


def test_validate_counts_are_exact_beyond_listed_findings(tmp_path: Path) -> None:
    """Two of thirty are listed, thirty are counted."""
    report = validate(write(tmp_path / "bad.jsonl", [b"{"] * 30), settings=CheckSettings(max_findings=2))
    assert report.summary.counts["FT101"] == 30
    assert sum(f.code == "FT101" for f in report.findings) == 2


def test_validate_file_rule_counts_are_exact(tmp_path: Path) -> None:
    """1,200 of 13,200 records have no system message and no JSON answer; a thousand places are remembered."""
    first = {"role": "system", "content": "Answer in JSON."}
    rows = [{"messages": [first, {"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"[{n}]"}]}
            for n in range(12_000)]  # fmt: skip
    odd = [{"messages": [{"role": "user", "content": f"{n}!"}, {"role": "assistant", "content": f"No {n}."}]}
           for n in range(1_200)]  # fmt: skip
    report = validate(
        write(tmp_path / "a.jsonl", [*rows, *odd]), settings=CheckSettings(engine="pure-python", processes=1)
    )
    assert (report.summary.counts["FT817"], report.summary.counts["FT808"]) == (1_200, 1_200)


def test_validate_selects_and_ignores_rules_by_prefix(tmp_path: Path) -> None:
    """Select narrows, ignore takes away."""
    path = write(tmp_path / "bad.jsonl", [*chats(3), b"{", {"messages": []}])
    assert set(validate(path, settings=CheckSettings(select=("FT1",), ignore=("FT112",))).summary.counts) == {"FT101"}


def test_validate_ignore_by_record_hash_until_expiry(tmp_path: Path) -> None:
    """The hash survives reordering; the date ends the excuse."""
    path = write(tmp_path / "bad.jsonl", [{"messages": []}, *chats(11)])
    found = next(f for f in validate(path).findings if f.code == "FT202")
    day = dt.date(2026, 12, 31)
    settings = CheckSettings(ignores=(Ignore("FT202", "kept on purpose", found.record_sha256, day),))
    moved = write(tmp_path / "moved.jsonl", [*chats(11), {"messages": []}])
    assert "FT202" not in validate(moved, settings=settings, today=day).summary.counts
    assert "FT202" in validate(moved, settings=settings, today=day + dt.timedelta(1)).summary.counts


def test_validate_threshold_sets_level_and_share(tmp_path: Path) -> None:
    """One of twelve is under ten percent."""
    path = write(tmp_path / "bad.jsonl", [*chats(11), b"\n{"])
    mild = validate(path, settings=CheckSettings(thresholds={"FT101": Threshold(level="info")}))
    assert errors(mild) == [] and mild.summary.counts["FT101"] == 1
    assert (
        "FT101"
        not in validate(path, settings=CheckSettings(thresholds={"FT101": Threshold(max_share=0.1)})).summary.counts
    )


def test_validate_reports_overlap_of_train_and_validation(tmp_path: Path) -> None:
    """One record and one prompt overlap."""
    rows = chats()
    same, asked = rows[3], {"messages": [rows[5]["messages"][0], {"role": "assistant", "content": "No."}]}
    train = write(tmp_path / "train.jsonl", [*rows])
    held = write(tmp_path / "held.jsonl", [same, asked, chats(14)[13]])
    report = validate(train, validation=held)
    overlaps = [(f.file, f.line, f.message) for f in report.findings if f.code == "FT703"]
    assert overlaps == [
        ("held.jsonl", 1, "The same record is at line 4 of the training file."),
        ("held.jsonl", 2, "The same prompt is at line 6 of the training file."),
    ]


def test_validate_severity_depends_on_target(tmp_path: Path) -> None:
    """Few examples are an error for a host and none at home; a byte order mark is what Azure asks for."""
    few = write(tmp_path / "few.jsonl", [*chats(3)])
    assert errors(validate(few)) == ["FT112"] and errors(validate(few, target="local")) == []
    marked = tmp_path / "bom.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + write(tmp_path / "good.jsonl", [*chats()]).read_bytes())
    assert errors(validate(marked)) == ["FT005"] and errors(validate(marked, target="azure")) == []


def test_validate_reports_shutdown_of_base_model(tmp_path: Path) -> None:
    """By day, for the target."""
    path = write(tmp_path / "good.jsonl", [*chats()])
    day = dt.date(2026, 11, 24)
    assert errors(validate(path, model="gpt-4.1-nano", today=day)) == ["FT710"]
    soon = validate(path, model="ft:gpt-4.1-mini-2025-04-14:me::1", today=day)
    assert soon.ok and soon.summary.counts["FT710"] == 1
    assert "FT710" not in validate(path, model="gpt-4.1-mini", target="azure", today=day).summary.counts


def test_validate_overlong_example_names_truncated_answer(tmp_path: Path) -> None:
    """The old model reads 4,096 tokens."""
    long = chat(0)
    long["messages"][1]["content"] = "word " * 5000
    report = validate(
        write(tmp_path / "long.jsonl", [*chats(11), long]), model="gpt-3.5-turbo-0613", today=dt.date(2026, 1, 1)
    )
    places = [(f.code, f.line, f.path) for f in report.findings if f.code in ("FT701", "FT702")]
    assert places == [("FT701", 12, ""), ("FT702", 12, "messages[1].content")]
    assert report.tokens is not None and report.tokens.over_limit == 1 and report.tokens.billable < report.tokens.total


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'[{"messages": []},\n {"messages": []}]\n', "FT103"),
        (b'{\n  "messages": [\n    {"role": "user"}\n  ]\n}\n', "FT103"),
        ('{"messages": []}\n'.encode("utf-16"), "FT004"),
        ('{"messages": []}\n'.encode("utf-32-le"), "FT004"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff", "FT004"),
        (b"\x00" * 100, "FT004"),
        (b"", "FT002"),
        (b"\n \n\n", "FT002"),
    ],
)
def test_validate_non_jsonl_file_has_one_finding(tmp_path: Path, data: bytes, code: str) -> None:
    """Not one finding for each of its lines."""
    path = tmp_path / "odd.jsonl"
    path.write_bytes(data)
    assert errors(validate(path)) == [code]


def test_validate_pretty_printed_record_is_reported_once(tmp_path: Path) -> None:
    """And what follows it is checked as before."""
    import json

    spread = json.dumps(chat(2), indent=2).encode()
    report = validate(write(tmp_path / "odd.jsonl", [*chats(10), spread, {"messages": []}]))
    assert [(f.code, f.line) for f in report.findings if f.severity == "error"] == [
        ("FT103", 11),
        ("FT202", 11 + len(spread.split(b"\n"))),
    ]


@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_validate_missing_file_is_usage_error(path: str) -> None:
    """Missing files and folders are refused before any rule runs."""
    with pytest.raises(UsageError):
        validate(Path(path))


def test_validate_wrong_choice_suggests_similar_one(tmp_path: Path) -> None:
    """Target, method, rule and key."""
    path = write(tmp_path / "good.jsonl", [*chats()])
    for call in (
        lambda: validate(path, target="opnai"),
        lambda: validate(path, method="dop"),
        lambda: validate(path, settings=CheckSettings(select=("FX1",))),
        lambda: settings_from({"selct": ["FT1"]}, ["FT101"]),
        lambda: settings_from({"thresholds": {"FT101": {"level": "bad"}}}, ["FT101"]),
        lambda: settings_from({"ignores": [{"rule": "FT101"}]}, ["FT101"]),
    ):
        with pytest.raises((UsageError, ConfigError)) as caught:
            call()
        assert caught.value.hint
