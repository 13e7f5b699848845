"""Which tokens of a row are shown as trained, and why the others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.token_mask import token_masks
from ftpipe.errors import DatasetError, UsageError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, ChatTokenizer
from ftpipe.paths import models_dir
from ftpipe.records.token_mask import TokenKind, TokenMask
from ftpipe.reports.dataset_html import html
from ftpipe.reports.token_mask import mask_lines
from ftpipe.stages.validate import validate
from tests.dataset.samples import chats, write
from tests.modeling.families import save_tokenizer
from tests.reports.xss_payloads import PAYLOADS

QUESTION = {"role": "user", "content": "Hi<|im_end|>"}
ROW = {
    "messages": [
        QUESTION,
        {"role": "assistant", "content": "one", "weight": 0},
        {"role": "user", "content": "def f():\n"},
        {"role": "assistant", "content": "    return 1\n    # 👩🏽‍🚀"},
    ]
}


def model_folder(family: str = "smollm2") -> Path:
    folder = save_tokenizer(family, models_dir() / "small")
    (folder / "config.json").write_text('{"max_position_embeddings": 512}')
    return folder


def masks(folder: Path, row: dict[str, Any], *, target: str = "local", **options: Any) -> tuple[TokenMask, ...]:
    model = "small" if target == "local" else "gpt-4.1-mini"
    return token_masks(write(folder / "a.jsonl", [row]), target=target, model=model, **options)


def text_of(mask: TokenMask, kind: TokenKind) -> str:
    return "".join(token.text for token in mask.tokens if token.kind == kind)


def test_token_masks_are_those_of_the_trainer(tmp_path: Path) -> None:
    """The same ids, and trained where the trainer has labels."""
    (example,) = ChatTokenizer.load(model_folder()).examples(ROW)
    (mask,) = masks(tmp_path, ROW)
    assert mask.exact and mask.limit == 512
    assert tuple(token.id for token in mask.tokens) == example.ids
    labels = [label != IGNORE_INDEX for label in example.labels]
    assert [token.kind == TokenKind.TRAINED for token in mask.tokens] == labels


def test_token_masks_name_what_is_not_trained(tmp_path: Path) -> None:
    """Control tokens of the template only; an answer with weight 0; the rest is prompt; what is cut is cut."""
    model_folder()
    (mask,) = masks(tmp_path, ROW)
    assert text_of(mask, TokenKind.TRAINED) == "    return 1\n    # 👩🏽‍🚀<|im_end|>"
    assert text_of(mask, TokenKind.WEIGHT_0) == "one<|im_end|>"
    assert text_of(
        mask, TokenKind.CONTROL
    ) == "<|im_start|><|im_end|>" * 1 + "<|im_start|><|im_end|>" + "<|im_start|>" + (
        "<|im_start|><|im_end|><|im_start|>"
    )
    assert "Hi<|im_end|>" in text_of(mask, TokenKind.PROMPT)
    (cut,) = masks(tmp_path, ROW, max_length=20)
    assert [token.kind for token in cut.tokens[:20]] == [token.kind for token in mask.tokens[:20]]
    assert {token.kind for token in cut.tokens[20:]} == {TokenKind.CUT}


def test_token_masks_of_pairs_and_of_answers_that_are_trained_one_by_one(tmp_path: Path) -> None:
    model_folder()
    answers = [[{"role": "assistant", "content": text}] for text in ("good", "bad")]
    pair = {"input": {"messages": [QUESTION]}, "preferred_output": answers[0], "non_preferred_output": answers[1]}
    shown = [(mask.name, text_of(mask, TokenKind.TRAINED)) for mask in masks(tmp_path, pair)]
    assert shown == [("preferred", "good<|im_end|>"), ("non-preferred", "bad<|im_end|>")]
    model_folder("qwen3")
    dialogue = [QUESTION, answers[0][0], QUESTION, answers[1][0]]
    assert [mask.name for mask in masks(tmp_path, {"messages": dialogue})] == ["answer 1 of 2", "answer 2 of 2"]


@pytest.mark.parametrize("target", ["openai", "local"])
def test_token_masks_say_what_is_not_known(target: str, tmp_path: Path) -> None:
    """A service does not publish its control tokens, and a model that is not here has no tokenizer here."""
    (mask,) = masks(tmp_path, ROW, target=target)
    assert not mask.exact and ("publish" if target == "openai" else "not on this machine") in mask.note
    assert text_of(mask, TokenKind.TRAINED) == "    return 1\n    # 👩🏽‍🚀"
    assert text_of(mask, TokenKind.WEIGHT_0) == "one"
    report = validate(write(tmp_path / "b.jsonl", [ROW]), target=target, model="gpt-4.1-mini")
    assert report.tokens is not None
    assert report.tokens.total - 4 == mask.count(TokenKind.PROMPT) + mask.count(TokenKind.TRAINED) + (
        mask.count(TokenKind.WEIGHT_0) + mask.count(TokenKind.CONTROL)
    )


def test_token_masks_refuse_lines_that_cannot_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('[1]\n{"messages": []}\n' + json.dumps(ROW) + "\n", encoding="utf-8")
    assert token_masks(path, target="openai", model="")[0].line == 3
    with pytest.raises(DatasetError, match="line 2 is not a chat record"):
        token_masks(path, 2, target="openai", model="")
    with pytest.raises(UsageError, match="has no line 9"):
        token_masks(path, 9, target="openai", model="")
    model_folder("mistral")
    path.write_text(json.dumps({"messages": ROW["messages"][1:]}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 1 cannot be trained: .*Roles must alternate"):
        token_masks(path, target="local", model="small")


def test_mask_lines_name_each_kind_and_show_leading_blanks(tmp_path: Path) -> None:
    """Without colour everything is still there, and texts cannot control the terminal."""
    model_folder()
    (mask,) = masks(tmp_path, {"messages": [QUESTION, {"role": "assistant", "content": "    x\x1b[31m\ny"}]})
    lines = mask_lines(mask, lambda _style, text: text)
    assert lines[0].startswith("line 1: ") and "tokenizer small" in lines[0]
    assert any("····x␛[31m⏎" in line for line in lines)
    assert "trained: learned" in lines[-1] and "weight 0" not in lines[-1]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_html_shows_masks_without_running_texts(payload: str, tmp_path: Path) -> None:
    """Each token is an element whose class and title say what it is; its text is escaped."""
    text = payload.encode("utf-8", "replace").decode()
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
    report = validate(write(tmp_path / "b.jsonl", [*chats(11), row]))
    plain = html(report)
    page = html(report, (), masks(tmp_path, row, target="openai"))
    assert 'class="token trained" title="trained, id ' in page and 'class="token weight-0">weight 0<' in page
    for tag in ("<script", "<img", "<svg", "<iframe", "javascript:"):
        assert page.count(tag) == plain.count(tag)
