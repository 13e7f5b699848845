"""Tokenization: which encoding a model uses, and exact token counters for it."""

from __future__ import annotations

from typing import NamedTuple

from ftpipe.tokenization.counters import Counter, EngineName, open_counter, open_tiktoken

__all__ = [
    "DEFAULT_ENCODING", "Counter", "EncodingChoice", "EngineName", "base_of", "encoding_for", "open_counter",
    "open_tiktoken",
]  # fmt: skip

_PREFIXES = (
    ("gpt-3.5", "cl100k_base"),
    ("gpt-35", "cl100k_base"),
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
"""The first match wins; gpt-35 is Azure's spelling of gpt-3.5, and gpt-6 is assumed to follow gpt-5.

Source: tiktoken 0.14 ``model.py``, measured 2026-11-24.
"""

_GUESSED = ("gpt-6",)
DEFAULT_ENCODING = "o200k_base"


class EncodingChoice(NamedTuple):
    """An encoding for a model."""

    name: str
    exact: bool
    """False if the model has another tokenizer."""
    note: str
    """Why it is not exact; empty if it is."""


def base_of(model: str) -> str:
    """The base model's name inside the name of a fine-tuned model; any other name unchanged.

    ``ft:gpt-4.1-mini-2025-04-14:org:suffix:id`` and Azure's ``gpt-4.1-mini-2025-04-14.ft-<hex>`` are recognized;
    ``--``, which the local server uses instead of a slash, becomes a slash again.
    """
    name = model.strip()
    if name.startswith("ft:"):
        return name.split(":")[1].replace("--", "/")
    return name.split(".ft-")[0]


def encoding_for(model: str) -> EncodingChoice:
    """The encoding that counts a model's tokens, and whether that is exact.

    tiktoken's own lookup is not used: it returns cl100k_base for ``ft:gpt-4.1-…`` and does not know ``ft:o4-mini`` and
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
    note = f"estimated with {DEFAULT_ENCODING}, because {base_of(model)} has its own tokenizer."
    return EncodingChoice(DEFAULT_ENCODING, False, note)
