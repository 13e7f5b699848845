"""Detection of secrets and personal data."""

from __future__ import annotations

import time

import pytest

from ftpipe.dataset.sensitive_data import find_personal_data, find_secrets

KINDS = ("email", "phone", "card", "iban", "ssn")
RANDOM = "R7kQ2mXv9LpT4nWc8ZsB3yHd6JfG1aKe5UoM"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ann.lee@mailbox.org today", "an e-mail address"),
        ("call +49 30 901820 now", "a phone number"),
        ("call (212) 664-7665 now", "a phone number"),
        ("call 212-664-7665 now", "a phone number"),
        ("card 4539 1488 0343 6467 expires", "a card number"),
        ("card 371449635398431.", "a card number"),
        ("to DE89 3704 0044 0532 0130 00 please", "a bank account (IBAN)"),
        ("to GB82WEST12345698765432 please", "a bank account (IBAN)"),
        ("my number is 536-22-8726.", "a social security number"),
    ],
)
def test_find_personal_data_finds_each_kind(text: str, kind: str) -> None:
    """In all its usual notations."""
    assert kind in [match.kind for match in find_personal_data(text, KINDS)]


@pytest.mark.parametrize(
    "text",
    [
        "mail me at ann@example.com or no-reply@shop.org",
        "order 4539 1488 0343 6468, of 2024-01-15 10:22:33",
        "version 1.22.333, pi 3.14159265358979, range 100000-200000",
        "call 212-555-0123",
        "sha 0123456789012345678901234567890123456789",
        "0000 0000 0000 0000",
        "897332866932516836549455863945857657633116991 is one number, though its end alone could be a card",
    ],
)
def test_find_personal_data_ignores_similar_text(text: str) -> None:
    """Examples, wrong check digits, dates and versions."""
    assert list(find_personal_data(text, KINDS)) == []


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "Q3EGR7TZ5WMN2XKD",
        "sk-proj-" + RANDOM,
        "gh" + "p_" + RANDOM,
        "xoxb-" + "2910384756-5647382910-" + RANDOM[:24],
        "AIza" + RANDOM[:35],
        "-----BEGIN RSA PRIVATE KEY-----",
        "postgres://shop:" + "h7Gk2pQz" + "@db.internal/orders",
    ],
)
def test_find_secrets_masks_secret(text: str) -> None:
    """The masked text is enough to find the secret again."""
    (match,) = find_secrets(f"use {text} here")
    assert text not in match.masked


@pytest.mark.parametrize(
    "text",
    ["sk-" + "x" * 40, "AKIAIOSFODNN7EXAMPLE", "sk-your-key-goes-here-please-now", "postgres://user:password@host"],
)
def test_find_secrets_ignores_placeholders(text: str) -> None:
    """They are frequent in documentation."""
    assert list(find_secrets(text)) == []


@pytest.mark.parametrize(
    "text",
    ["a@" * 400_000, "a@b." * 200_000, "@" * 800_000, "a" * 800_000 + "@", "a@" + "a." * 400_000, "1-" * 400_000,
     "12 " * 266_000, "(" * 800_000 + "555", "+1 " * 266_000, "AB12 " * 160_000, "://a:" * 160_000 + "@",
     "eyJ" * 266_000 + ".", "sk-" * 266_000, "-----BEGIN " * 72_000 + "PRIVATE KEY"],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_sensitive_data_in_a_long_line_takes_linear_time(text: str) -> None:
    """A line of 800 kB of @ took 27 seconds before."""
    started_at = time.thread_time()
    list(find_personal_data(text, ["email", "phone", "card", "iban", "ssn"]))
    list(find_secrets(text))
    assert time.thread_time() - started_at < 5


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("write to ann@corp.io.", "ann@corp.io"),
        ("@ann@corp.io", "ann@corp.io"),
        ("x@y a.b+c@corp.co.uk", "a.b+c@corp.co.uk"),
        ("a@-x.yz+bob@corp.io", ""),
        ("." + "a" * 64 + "@corp.io", ""),
        ("a" * 64 + "@corp.io", "a" * 64 + "@corp.io"),
        ("a" * 65 + "@corp.io", ""),
        ("+a@corp.io", ""),
    ],
)
def test_sensitive_data_email_has_exact_bounds(text: str, address: str) -> None:
    matches = list(find_personal_data(text, ["email"]))
    assert [text[match.start : match.end] for match in matches] == ([address] if address else [])
