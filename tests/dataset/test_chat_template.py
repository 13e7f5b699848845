"""Chat templates are rendered as the trainer renders them, in a sandbox, without its packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.chat_template import ChatTemplate, find_template
from ftpipe.modeling.chat_messages import ChatTemplateError
from ftpipe.paths import models_dir
from tests.dataset.file_level_examples import base
from tests.training.templates import SPECIAL
from tests.training.tiny_model import tiny_tokenizer

ASKED = {"role": "user", "content": "  What?\n"}
TALKS: list[list[dict[str, Any]]] = [
    [ASKED],
    [ASKED, {"role": "assistant", "content": "<b>That</b> & 'this'."}],
    [ASKED, {"role": "assistant", "content": "ünï\n\n"}, ASKED, {"role": "assistant", "content": "b"}],
    [{"role": "system", "content": "Be short."}, ASKED, {"role": "assistant", "content": "b"}],
]


@pytest.mark.parametrize("family", SPECIAL)
def test_a_rendering_is_that_of_the_tokenizer(family: str, tmp_path: Path) -> None:
    """Letter for letter, from the files that it writes; what it refuses is refused."""
    from jinja2.exceptions import TemplateError

    tokenizer = tiny_tokenizer(family)
    tokenizer.save_pretrained(tmp_path)
    template = ChatTemplate.load(tmp_path)
    for talk in TALKS:
        for ask in (False, True):
            try:
                expected = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=ask)
            except TemplateError as refused:
                with pytest.raises(ChatTemplateError, match=str(refused)):
                    template.render(talk, ask=ask)
            else:
                assert template.render(talk, ask=ask) == expected
    assert bool(template.fault) == (family == "endless")
    assert set(SPECIAL[family][1]) <= template.special


def test_the_kept_default_base_is_read() -> None:
    """Where the folder is there; where it is not, nothing is said."""
    assert find_template("smollm2-135m-instruct") is None and find_template("../x") is None
    template = find_template(base("kept", "chatml"))
    assert (
        template is not None
        and template.refusal(TALKS[1]) == ""
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
def test_what_a_template_tries_ends_in_words(source: str) -> None:
    """Templates come with a model from somewhere: they reach nothing, and their faults are findings."""
    folder = models_dir() / base("odd", "chatml")
    (folder / "chat_template.jinja").write_text(source)
    template = ChatTemplate.load(folder)
    assert template.refusal(TALKS[1]) and template.fault


def test_broken_files_of_a_base_count_as_missing() -> None:
    """No traceback for a folder that somebody half wrote."""
    folder = models_dir() / base("broken", None)
    (folder / "tokenizer.json").write_bytes(b"\xff{")
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "tool_use"}], "eos_token": 7}')
    template = ChatTemplate.load(folder)
    assert (template.special, template.fault) == (frozenset(), "The base has no chat template.")
