"""Counting is exactly tiktoken's, whichever engine counts, and needs no network."""

from __future__ import annotations

import hashlib

import pytest

from ftpipe.errors import LocalStateError
from ftpipe.tokenization import base_of, encoding_for, open_counter, open_tiktoken
from ftpipe.tokenization.bpe_ranks import BUNDLED_SHA256, PUBLISHED_SHA256, RankTable, bundled_ranks, pack
from ftpipe.tokenization.counters import EngineName, has_gigatoken
from tests.examples import examples

# ruff: noqa: E501
HARD = [
    "", " ", "  \n\n \t x", "Hello, world! I'm sure they'll've gone", "I'M YOU'LL ſ'ſ 'S", "camelCaseHTTPServer2XXL",
    "naïve café — “quoted” … ½ ² Ⅷ", "日本語のテキストと中文混排，标点。", "한국어 조합형", "עברית ᾴ ǅ", "👩‍👩‍👧‍👦🏳️‍🌈 ☎️ 𝔘𝔫𝔦",
    "\u0301\u0301a\u0301", "a\u200bb\u2028c\u0085d\ufeffe", "<|endoftext|><|fim_suffix|><|im_start|>", "\x00\x01\x1f\x7f",
    "0123456789 1,234.5678e-10 ٣٤٥", "def f(x):\n\treturn {'a': [1, 2]}  # c\r\n\r\n\r\n", "a" * 3000, "ab" * 2000, "\n" * 500, " " * 3000 + "x",
    "!?" * 700, "\u088f \u0c5c \ua7ce \U00010940 \U000323b0 x", "\U0001e6c0\U0001e6fe'll", "ΑΒΓ ΣΊΣΥΦΟΣ", "İstanbul ǆ", "\u3000\u3000日",
]  # fmt: skip
ENGINES: list[EngineName] = ["pure-python", "gigatoken"] if has_gigatoken() else ["pure-python"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("encoding", sorted(PUBLISHED_SHA256))
def test_counters_equal_tiktoken_on_hard_texts(encoding: str, engine: EngineName) -> None:
    """Whitespace, case, scripts, emoji, marks, runs, special-token text and characters that are too new."""
    reference = open_tiktoken(encoding)
    expected = [len(reference.encode_ordinary(text)) for text in HARD]
    assert open_counter(encoding, size=0, engine=engine).count(HARD) == expected


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("encoding", sorted(PUBLISHED_SHA256))
def test_counters_equal_tiktoken_on_every_code_point(encoding: str, engine: EngineName) -> None:
    """Each code point of the planes that hold characters, and a sample of the others, between letters and blanks.

    By default every fourth of them.
    """
    planes = [*range(0xD800), *range(0xE000, 0x40000), *range(0x40000, 0xE0000, 64), *range(0xE0000, 0xE0200)]
    points = [chr(n) for n in [*planes, *range(0xE0200, 0x110000, 64)][:: examples(4, 1)]]
    texts = ["".join(f"a{c} {c}1{c}'s\n" for c in points[at : at + 16]) for at in range(0, len(points), 16)]
    reference = open_tiktoken(encoding)
    counter = open_counter(encoding, size=0, engine=engine)
    for at in range(0, len(texts), 4096):
        part = texts[at : at + 4096]
        assert counter.count(part) == [len(reference.encode_ordinary(text)) for text in part]


@pytest.mark.parametrize("encoding", sorted(PUBLISHED_SHA256))
def test_bundled_ranks_equal_published_ranks(encoding: str) -> None:
    """Unpacked to the published form, the table has the digest that tiktoken names, and packs to itself again."""
    published = RankTable(encoding).published()
    assert hashlib.sha256(published).hexdigest() == PUBLISHED_SHA256[encoding]
    assert pack(published, encoding) == bundled_ranks(encoding)
    with pytest.raises(LocalStateError):
        pack(published[:-1], encoding)


def test_bundled_ranks_reject_damaged_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is checked at load."""
    monkeypatch.setitem(BUNDLED_SHA256, "o200k_base", "0" * 64)
    with pytest.raises(LocalStateError, match="damaged"):
        bundled_ranks("o200k_base")


def test_counter_counts_a_million_spaces() -> None:
    """Tiktoken alone overflows its stack there."""
    blanks = " " * 100_000
    assert open_counter("o200k_base", size=0, engine="tiktoken").count([blanks]) == [782]


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-4.1-mini", "o200k_base", True),
        ("ft:gpt-4.1-mini-2025-04-14:acme:bot:A1b2", "o200k_base", True),
        ("ft:o4-mini-2025-04-16:acme::x", "o200k_base", True),
        ("gpt-4.1-2025-04-14.ft-0123abcd", "o200k_base", True),
        ("gpt-3.5-turbo-0125", "cl100k_base", True),
        ("ft:gpt-4-0613:acme::x", "cl100k_base", True),
        ("gpt-4o-mini", "o200k_base", True),
        ("gpt-6-luna", "o200k_base", False),
        ("smollm2-135m-instruct", "o200k_base", False),
        ("", "o200k_base", True),
    ],
)
def test_encoding_for_uses_base_model(model: str, encoding: str, exact: bool) -> None:
    """Also inside fine-tuned names, where tiktoken's own lookup errs."""
    choice = encoding_for(model)
    assert (choice.name, choice.exact, bool(choice.note)) == (encoding, exact, not exact)


def test_base_of_local_name_is_hub_id() -> None:
    """The local server writes a slash as two hyphens."""
    assert base_of("ft:HuggingFaceTB--SmolLM2-360M:local:bot:1234abcd") == "HuggingFaceTB/SmolLM2-360M"
