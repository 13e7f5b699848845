"""The check that renders records like the trainer, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.training_check import TrainingCheck, find_training_check
from ftpipe.modeling.chat_template import ChatTemplate
from ftpipe.paths import models_dir
from tests.dataset.file_level_examples import base_model

QUESTION = {"role": "user", "content": "  What?\n"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [QUESTION],
    [QUESTION, {"role": "assistant", "content": "<b>That</b> & 'this'."}],
]


def check_of(folder: Path) -> TrainingCheck:
    return TrainingCheck(ChatTemplate.load(folder))


def test_find_training_check_reads_downloaded_base_model() -> None:
    assert find_training_check("smollm2-135m-instruct") is None and find_training_check("../x") is None
    check = find_training_check(base_model("downloaded", "chatml"))
    assert check is not None and check.row_error({"messages": CONVERSATIONS[1]}) == "" and check.template_error == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% for",
        "{{ 1 / 0 }}",
        "{{ messages[7].x.y }}",
    ],
)
def test_training_check_errors_are_messages(source: str) -> None:
    """Templates are untrusted: they cannot reach Python objects, and their errors become findings."""
    folder = models_dir() / base_model("odd", "chatml")
    (folder / "chat_template.jinja").write_text(source)
    check = check_of(folder)
    assert check.row_error({"messages": CONVERSATIONS[1]}) and check.template_error


def test_training_check_treats_broken_files_as_missing() -> None:
    folder = models_dir() / base_model("broken", None)
    (folder / "tokenizer.json").write_bytes(b"\xff{")
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "tool_use"}], "eos_token": 7}')
    check = check_of(folder)
    assert (check.template.special, check.template_error) == (frozenset(), "The base model has no chat template.")


def test_training_check_finds_template_without_end_of_turn() -> None:
    assert "never stop" in check_of(models_dir() / base_model("endless", "endless")).template_error


def test_training_check_takes_dialogue_opened_by_assistant() -> None:
    """As the trainer does; only templates that reject the order of roles reject the record."""
    opened = {"messages": [{"role": "assistant", "content": "Hello."}, *CONVERSATIONS[1]]}
    assert check_of(models_dir() / base_model("chatml", "chatml")).row_error(opened) == ""
    assert "alternate" in check_of(models_dir() / base_model("mistral", "mistral")).row_error(opened)


def test_training_check_renders_both_answers_of_a_pair() -> None:
    check = check_of(models_dir() / base_model("mistral", "mistral"))
    answer = [{"role": "assistant", "content": "a"}]
    pair = {"input": {"messages": [QUESTION]}, "preferred_output": answer, "non_preferred_output": answer}
    assert check.row_error(pair) == ""
    assert "alternate" in check.row_error({**pair, "input": {"messages": [QUESTION, QUESTION]}})
