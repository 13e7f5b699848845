"""Which format a record has, and what the checks say of one that has to be converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.formats import legacy_shape, shape_of
from ftpipe.stages.validate import validate

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CHAT = {"messages": [USER, ANSWER]}
PARTS = [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt/completion"),
        ({"prompt": "a", "completion": "b", "label": False}, "KTO"),
        ({"Instruction": "a", "Input": "", "Output": "b"}, "Alpaca"),
        ({"instruction": "a", "context": "c", "response": "b"}, "Dolly"),
        ({"conversations": []}, "ShareGPT"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chosen/rejected"),
        ({"instruction": "a", "input": "", "chosen": "b", "rejected": "c", "output": ""}, "chosen/rejected"),
        ({"messages": [USER], "chosen": ANSWER, "rejected": ANSWER}, "chosen/rejected"),
        ({"contents": PARTS}, "Vertex AI"),
        ({"schemaVersion": "bedrock-conversation-2024", **CHAT}, "Bedrock"),
        ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}, ANSWER]}, "Bedrock"),
        ({"system": "Short.", **CHAT}, "Anthropic"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use"}]}, ANSWER]}, "Anthropic"),
        ({"messages": json.dumps([USER, ANSWER])}, "messages as text"),
        ({**CHAT, "kto_tag": False}, "KTO"),
        ({**CHAT, "rejected_response": "Go"}, "chosen/rejected"),
        ({"messages": [{"role": "User", "content": "Hi"}, {"role": "Chatbot", "content": "Hello"}]}, "Cohere"),
        ({"messages": [{"type": "human", "data": {"content": "Hi"}}]}, "LangChain"),
        ({"input": {"messages": [USER]}, "output": ANSWER}, "input/output"),
        ({"input": [USER], "ideal": "2"}, "evals"),
        ({"inputs": {"question": "a"}, "outputs": {"answer": "b"}}, "LangSmith"),
        ({"custom_id": "a", "response": {}}, "Batch API"),
        ({"data": {"text": "a"}, "annotations": []}, "Label Studio"),
        ({"text": "a", "label": 1, "label_text": "b"}, "text/label"),
        ({"messages": {"role": ["user", "assistant"], "content": ["a", "b"]}}, "messages by column"),
    ],
)
def test_formats_names_what_has_to_be_converted(record: dict[str, Any], name: str) -> None:
    assert (legacy_shape(record), shape_of(record)) == (name, "legacy")


@pytest.mark.parametrize(
    ("record", "shape"),
    [
        (CHAT, "messages"),
        ({**CHAT, "tools": [], "id": 1}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER]}, "messages"),
        ({"messages": [USER], "label": True, "system": "reference"}, "messages"),
        ({"messages": [{"role": "system", "content": "S"}, USER, ANSWER], "system": "x"}, "messages"),
        ({"messages": "not a list"}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, "dpo"),
        ({"input": {"messages": [USER]}}, "dpo"),
        ({"x": 1}, "unknown"),
    ],
)
def test_formats_of_the_api_need_no_conversion(record: dict[str, Any], shape: str) -> None:
    assert (legacy_shape(record), shape_of(record)) == ("", shape)


def test_checks_name_the_format_and_the_command(tmp_path: Path) -> None:
    """One finding for the whole file."""
    path = tmp_path / "vertex.jsonl"
    path.write_text((json.dumps({"contents": PARTS}) + "\n") * 12, encoding="utf-8")
    report = validate(path, target="local")
    assert [(finding.code, finding.message) for finding in report.findings if finding.severity == "error"] == [
        ("FT111", "All records are in the Vertex AI format.")
    ]
