"""Rendering of chat templates in the sandbox, without transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.chat_template import ChatTemplate, find_template
from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.paths import models_dir
from tests.dataset.file_level_examples import base_model
from tests.training.templates import SPECIAL
from tests.training.tiny_model import tiny_tokenizer

QUESTION = {"role": "user", "content": "  What?\n"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [QUESTION],
    [QUESTION, {"role": "assistant", "content": "<b>That</b> & 'this'."}],
    [QUESTION, {"role": "assistant", "content": "ünï\n\n"}, QUESTION, {"role": "assistant", "content": "b"}],
    [{"role": "system", "content": "Be short."}, QUESTION, {"role": "assistant", "content": "b"}],
]


@pytest.mark.parametrize("family", SPECIAL)
def test_chat_template_renders_like_tokenizer(family: str, tmp_path: Path) -> None:
    """Character by character, from the files that the tokenizer writes; it also rejects the same conversations."""
    from jinja2.exceptions import TemplateError

    tokenizer = tiny_tokenizer(family)
    tokenizer.save_pretrained(tmp_path)
    template = ChatTemplate.load(tmp_path)
    for conversation in CONVERSATIONS:
        for prompt in (False, True):
            try:
                expected = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
            except TemplateError as rejected:
                with pytest.raises(ChatTemplateError, match=str(rejected)):
                    template.render(conversation, add_generation_prompt=prompt)
            else:
                assert template.render(conversation, add_generation_prompt=prompt) == expected
    assert bool(template.training_error) == (family == "endless")
    assert set(SPECIAL[family][1]) <= template.special


def test_find_template_reads_downloaded_base_model() -> None:
    assert find_template("smollm2-135m-instruct") is None and find_template("../x") is None
    template = find_template(base_model("downloaded", "chatml"))
    assert (
        template is not None
        and template.render_error(CONVERSATIONS[1]) == ""
        and template.find_special_token("a<|im_end|>") == "<|im_end|>"
    )


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
def test_chat_template_errors_are_messages(source: str) -> None:
    """Templates are untrusted: they cannot reach Python objects, and their errors become findings."""
    folder = models_dir() / base_model("odd", "chatml")
    (folder / "chat_template.jinja").write_text(source)
    template = ChatTemplate.load(folder)
    assert template.render_error(CONVERSATIONS[1]) and template.training_error


def test_chat_template_treats_broken_files_as_missing() -> None:
    folder = models_dir() / base_model("broken", None)
    (folder / "tokenizer.json").write_bytes(b"\xff{")
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "tool_use"}], "eos_token": 7}')
    template = ChatTemplate.load(folder)
    assert (template.special, template.training_error) == (frozenset(), "The base model has no chat template.")
