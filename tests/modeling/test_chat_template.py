"""Rendering of chat templates from a model's files, without transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.modeling.chat_template import ChatTemplate, Conversation
from ftpipe.modeling.control_tokens import TokenFinder, unused_mark
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
def test_conversation_renders_like_tokenizer(family: str, tmp_path: Path) -> None:
    """Character by character, from the files that the tokenizer writes; it also rejects the same conversations."""
    from jinja2.exceptions import TemplateError

    tokenizer = tiny_tokenizer(family)
    tokenizer.save_pretrained(tmp_path)
    template = ChatTemplate.load(tmp_path)
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            try:
                expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            except TemplateError as rejected:
                with pytest.raises(ChatTemplateError, match=str(rejected)):
                    Conversation(template, messages).render(add_generation_prompt=prompt)
            else:
                assert Conversation(template, messages).render(add_generation_prompt=prompt) == expected
    assert set(SPECIAL[family][1]) <= template.special


def test_chat_template_of_tokenizer_is_that_of_its_files(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.save_pretrained(tmp_path)
    assert ChatTemplate.of(tokenizer).sources == ChatTemplate.load(tmp_path).sources
    assert ChatTemplate.of(tokenizer).special == ChatTemplate.load(tmp_path).special


def test_chat_template_reads_template_for_tools(tmp_path: Path) -> None:
    """Some models have a second template for conversations with tools."""
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("with {{ tools | length }} tool")
    template = ChatTemplate.load(tmp_path)
    assert Conversation(template, [QUESTION]).render() == "plain"
    assert Conversation(template, [QUESTION], [{"type": "function"}]).render() == "with 1 tool"


def test_chat_template_gets_variables(tmp_path: Path) -> None:
    """They replace neither messages nor tokens, and their texts make no control tokens."""
    source = "{{ bos_token }}{{ messages[0]['content'] }}{% if enable_thinking is false %}<end>{{ note }}{% endif %}"
    template = ChatTemplate({"default": source}, {"bos_token": "<s>"}, frozenset({"<s>", "<end>"}))
    variables = {"enable_thinking": False, "note": "a<end>", "bos_token": "x", "messages": []}
    conversation = Conversation(template, [{"role": "user", "content": "hi"}], None, variables)
    assert conversation.render() == f"<s>hi<end>a<{conversation.mark}end>"
    assert Conversation(template, [{"role": "user", "content": "hi"}]).render() == "<s>hi"


def test_token_finder_marks_every_word_also_overlapping_ones() -> None:
    """No word is left whole, not even one that overlaps another."""
    finder = TokenFinder(["<s>", "ab", "bc", ""])
    assert list(finder.find("a<s>abc")) == [(1, 4), (4, 6), (5, 7)]
    assert finder.mark({"<s>": ["x<s>", 1, None, True]}, "#") == {"<#s>": ["x<#s>", 1, None, True]}
    assert finder.mark("abc", "#") == "a#b#c"


def test_unused_mark_is_in_no_text() -> None:
    first = unused_mark(["plain"])
    assert unused_mark([{"a": [first]}, {first: 1}]) != first
