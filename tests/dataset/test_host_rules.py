"""Rules of the hosts that OpenAI's files can be taken to: what each refuses, and the fixes that are offered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.fixes import fix_file
from ftpipe.stages.validate import validate
from tests.dataset.negative_examples import PNG, exchange, image, with_parts
from tests.dataset.samples import chats, graded, preference, write

Row = dict[str, Any]
HOSTS = ("together", "fireworks")


def errors(path: Path, target: str, **options: Any) -> dict[str, str]:
    """Code → message of the errors of a file."""
    findings = validate(path, target=target, **options).findings
    return {finding.code: finding.message for finding in findings if finding.severity == "error"}


def file_with(folder: Path, row: Row) -> Path:
    """Eleven good records and this one."""
    return write(folder / "a.jsonl", [*chats(11), row])


def messages(*roles: str) -> Row:
    """A conversation of these roles."""
    return {"messages": [{"role": role, "content": f"text {index}"} for index, role in enumerate(roles)]}


@pytest.mark.parametrize("target", [*HOSTS, "nebius", "local"])
def test_plain_chat_is_accepted_everywhere(target: str, tmp_path: Path) -> None:
    assert errors(write(tmp_path / "a.jsonl", [*chats()]), target) == {}


REFUSED: dict[str, tuple[Row, dict[str, str | None]]] = {
    "two questions in a row": (messages("user", "user", "assistant"), dict.fromkeys(HOSTS, "FT213")),
    "two answers in a row": (messages("user", "assistant", "assistant"), dict.fromkeys(HOSTS, "FT213")),
    "the role developer": (messages("developer", "user", "assistant"), dict.fromkeys(HOSTS, "FT219")),
    "a late system message": (messages("user", "assistant", "system", "user", "assistant"), {"fireworks": "FT211"}),
    "the role function": (
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "function", "name": "f", "content": "b"},
                {"role": "assistant", "content": "c"},
            ]
        },
        dict.fromkeys(HOSTS, "FT205"),
    ),
    "functions": ({**exchange(), "functions": [{"name": "f"}]}, dict.fromkeys(HOSTS, "FT309")),
    "an image behind a URL": (with_parts(image("https://a.org/b.png")), dict.fromkeys(HOSTS, "FT407")),
    "a weight": ({**exchange(), "weight": 0.5}, {"openai": "FT110", "fireworks": "FT110", "together": None}),
    "a negative weight": ({**exchange(), "weight": -1}, {"together": "FT110"}),
    "a mark": ({**exchange(), "train": False}, {"openai": "FT110", "fireworks": "FT110", "together": "FT110"}),
    "reasoning": (exchange(reasoning="because"), {"openai": "FT214", "together": None}),
    "metadata": ({**exchange(), "source": "x"}, {"openai": "FT110", "together": None, "fireworks": None}),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_host_refuses_what_it_documents(what: str, tmp_path: Path) -> None:
    """``None`` is no error there."""
    row, expected = REFUSED[what]
    path = file_with(tmp_path, row)
    for target, code in expected.items():
        assert set(errors(path, target)) == ({code} if code else set()), target


def test_key_that_is_left_out_of_the_upload_is_a_warning_that_says_so(tmp_path: Path) -> None:
    path = file_with(tmp_path, {**exchange(), "source": "x", "parallel_tool_calls": False})
    for target in HOSTS:
        findings = [one for one in validate(path, target=target).findings if one.code == "FT110"]
        assert [(one.path, one.severity.value) for one in findings] == [
            ("source", "warning"),
            ("parallel_tool_calls", "warning"),
        ]
        assert "removed before the upload" in findings[0].message


@pytest.mark.parametrize(
    ("target", "least", "rows"), [("fireworks", 3, chats()), ("together", 1, chats()), ("bedrock", 100, [graded(0)])]
)
def test_fewest_examples_of_host(target: str, least: int, rows: list[Row], tmp_path: Path) -> None:
    enough = [
        {**rows[n % len(rows)], "reference_answer": str(n)} if target == "bedrock" else rows[n] for n in range(least)
    ]
    assert "FT112" not in errors(write(tmp_path / "a.jsonl", [*enough]), target)
    if least > 1:
        assert "FT112" in errors(write(tmp_path / "b.jsonl", [*enough[1:]]), target)


def test_bedrock_needs_reference_answer(tmp_path: Path) -> None:
    rows: list[Row | bytes] = [{**graded(n), "reference_answer": str(n)} for n in range(100)]
    assert errors(write(tmp_path / "a.jsonl", rows), "bedrock") == {}
    assert "FT603" in errors(write(tmp_path / "b.jsonl", [*rows[1:], graded(0)]), "bedrock")


def test_long_example_is_cut_by_together_and_left_out_by_fireworks(tmp_path: Path) -> None:
    path = file_with(tmp_path, exchange("word " * 17_000))
    assert "only the first 16,384" in errors(path, "together", model="openai/gpt-oss-120b")["FT701"]
    assert "FT701" not in errors(path, "fireworks", model="accounts/fireworks/models/qwen3-8b")


def test_image_needs_a_base_that_reads_images(tmp_path: Path) -> None:
    import base64

    path = file_with(tmp_path, with_parts(image("data:image/png;base64," + base64.b64encode(PNG).decode())))
    assert set(errors(path, "together", model="openai/gpt-oss-20b")) == {"FT409"}
    assert errors(path, "together", model="google/gemma-4-31B-it") == {}


@pytest.mark.parametrize("target", HOSTS)
def test_fixes_make_the_file_acceptable(target: str, tmp_path: Path) -> None:
    """``prepare --fix --unsafe-fixes``: roles, order and functions; a weight of the row stays where it is known."""
    rows: list[Row | bytes] = [
        *chats(11),
        messages("developer", "user", "assistant"),
        messages("user", "user", "assistant", "system", "user", "assistant"),
        {**exchange("Is it cold?"), "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}]},
        {**exchange("Is it warm?"), "source": "x", **({"weight": 2} if target == "together" else {})},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    assert errors(path, target)
    fixed = fix_file(path, tmp_path / "b.jsonl", unsafe=True, target=target)
    assert errors(fixed.output, target) == {}
    last = json.loads(fixed.output.read_bytes().splitlines()[-1])
    assert last.get("weight") == (2 if target == "together" else None)
    assert "source" not in last


def test_fix_keeps_reasoning_where_it_is_trained(tmp_path: Path) -> None:
    path = file_with(tmp_path, exchange(reasoning="because"))
    for target, expected in (("together", "because"), ("openai", None)):
        fixed = fix_file(path, tmp_path / f"{target}.jsonl", unsafe=True, target=target)
        assert json.loads(fixed.output.read_bytes().splitlines()[-1])["messages"][1].get("reasoning") == expected


def test_preference_pair_is_checked_for_each_host(tmp_path: Path) -> None:
    row = preference(0)
    row["input"]["messages"] = [*exchange()["messages"], *row["input"]["messages"]]
    path = write(tmp_path / "a.jsonl", [*(preference(n) for n in range(1, 12)), row])
    assert errors(path, "together") == {}
    assert set(errors(path, "fireworks")) == {"FT509"}
