"""Tokens: which encoding a model uses, and exact counters for it."""

from __future__ import annotations

from typing import NamedTuple

from ftpipe.tokenization.counters import Counter, EngineName, open_counter, open_tiktoken

__all__ = [
    "DEFAULT_ENCODING", "Counter", "EncodingChoice", "EngineName", "base_of", "encoding_for", "open_counter",
    "open_tiktoken",
]  # fmt: skip

_PREFIXES = (
    ("gpt-3.5", "cl100k_base"),
    ("gpt-4o", "o200k_base"),
    ("gpt-4.", "o200k_base"),
    ("gpt-4", "cl100k_base"),
    ("gpt-5", "o200k_base"),
    ("gpt-6", "o200k_base"),
    ("o1", "o200k_base"),
    ("o3", "o200k_base"),
    ("o4", "o200k_base"),
    ("chatgpt-4o", "o200k_base"),
    ("gpt-oss", "o200k_base"),
    ("babbage-002", "cl100k_base"),
    ("davinci-002", "cl100k_base"),
)
"""First match wins; gpt-6 is taken to follow gpt-5. Source: tiktoken 0.14 ``model.py``, measured 2026-11-24."""

_GUESSED = ("gpt-6",)
DEFAULT_ENCODING = "o200k_base"


class EncodingChoice(NamedTuple):
    """An encoding for a model."""

    name: str
    exact: bool
    """False where the model's own tokenizer is another one."""
    note: str
    """Why it is not exact; empty where it is."""


def base_of(model: str) -> str:
    """The base model's name inside a fine-tuned one; any other name as it is.

    ``ft:gpt-4.1-mini-2025-04-14:org:suffix:id`` and Azure's ``gpt-4.1-mini-2025-04-14.ft-<hex>`` are understood;
    the local server's ``--`` in place of a slash is turned back.
    """
    name = model.strip()
    if name.startswith("ft:"):
        return name.split(":")[1].replace("--", "/")
    return name.split(".ft-")[0]


def encoding_for(model: str) -> EncodingChoice:
    """The encoding that counts a model's tokens, and whether that is exact.

    The lookup of tiktoken is not used: it takes ``ft:gpt-4.1-…`` for cl100k_base and knows neither ``ft:o4-mini`` nor
    gpt-6.
    """
    base = base_of(model).lower()
    if not base:
        return EncodingChoice(DEFAULT_ENCODING, True, "")
    for prefix, encoding in _PREFIXES:
        if base.startswith(prefix):
            if prefix in _GUESSED:
                return EncodingChoice(
                    encoding, False, f"The encoding of {base} is not published; {encoding} is assumed."
                )
            return EncodingChoice(encoding, True, "")
    note = f"{base_of(model)} has a tokenizer of its own; counted with {DEFAULT_ENCODING}."
    return EncodingChoice(DEFAULT_ENCODING, False, note)
