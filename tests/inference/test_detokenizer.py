"""Generated tokens become the text that was trained, to the blank."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.inference.detokenizer import IncrementalDetokenizer, TokenLogprob
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX
from tests.modeling.families import FAMILIES, backend, chat_tokenizer


@pytest.mark.parametrize("answer", ["    return 7", "word", "\n\n👩🏽‍🚀 x"])
@pytest.mark.parametrize("name", ["smollm2", "mistral", "zephyr", "gemma"])
def test_detokenizer_gives_back_the_trained_answer(name: str, answer: str, tmp_path: Path) -> None:
    """Also where the tokenizer drops the first blank of a text, and where the template adds one."""
    tokenizer = chat_tokenizer(name, tmp_path)
    messages = [{"role": "user", "content": "def f(x):"}, {"role": "assistant", "content": answer}]
    (example,) = tokenizer.examples({"messages": messages})
    ids = [label for label in example.labels if label != IGNORE_INDEX][:-1]
    detokenizer = IncrementalDetokenizer(backend(name), (), tokenizer.decoding_context, tokenizer.template.answer_start)
    text = "".join(detokenizer.add(id_, ()).text for id_ in ids) + detokenizer.flush().text
    assert text == (answer.strip() if FAMILIES[name].strips else answer)


@pytest.mark.parametrize("name", ["smollm2", "mistral", "zephyr", "gemma"])
def test_token_logprob_has_the_token_s_own_bytes(name: str) -> None:
    """The bytes of all tokens are those of the text, also where a character consists of several tokens."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend(name))
    text = "Grüße, 👩🏽‍🚀\n\t\x00 ok    four €"
    ids = tokenizer(f"x {text}", add_special_tokens=False)["input_ids"]
    tokens = [TokenLogprob.of(tokenizer, id_, -1.0) for id_ in ids]
    assert bytes(byte for token in tokens for byte in token.bytes).decode().endswith(f"x {text}")
    parts = [token for token in tokens if token.raw is not None]
    assert parts
    assert all(token.token.encode("ascii").decode("unicode_escape").encode("latin-1") == token.raw for token in parts)
