"""Finds secrets and personal data in a text, with checks that exclude similar-looking texts.

detect-secrets works on files, and presidio needs a language model; a scan of 100 MB needs a function that costs
microseconds per text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class SensitiveMatch(NamedTuple):
    """A secret or personal datum in a text."""

    kind: str
    start: int
    end: int
    masked: str
    """Enough of it to recognize it, and no more."""


_TOKENS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (kind, prefixes, re.compile(pattern))
    for kind, prefixes, pattern in (
        ("an AWS access key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
        ("an API key", ("sk-",), r"\bsk-(?:proj-|svcacct-|admin-|ant-)?[A-Za-z0-9_-]{20,}"),
        ("a GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{36,}\b"),
        ("a GitHub token", ("github_pat_",), r"\bgithub_pat_[A-Za-z0-9_]{50,}\b"),
        ("a GitLab token", ("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("a Slack token", ("xox",), r"\bxox[abprs]-[A-Za-z0-9-]{20,}"),
        ("a Google API key", ("AIza",), r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
        ("a Stripe key", ("k_live_",), r"\b[sr]k_live_[A-Za-z0-9]{20,}\b"),
        ("a Hugging Face token", ("hf_",), r"\bhf_[A-Za-z0-9]{30,}\b"),
        ("an npm token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("a PyPI token", ("pypi-AgE",), r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
        ("a SendGrid key", ("SG.",), r"\bSG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
        ("a signed token (JWT)", ("eyJ",), r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
        ("a private key", ("PRIVATE KEY",), r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
        ("a password in a URL", ("://",), r"://[^\s:/@]{1,64}:[^\s:/@]{4,64}@[\w.-]+"),
    )
)
"""Kind, prefixes of which every such token contains one, and its pattern."""
_INDEX_BY_PREFIX = tuple((prefix, index) for index, (_, prefixes, _) in enumerate(_TOKENS) for prefix in prefixes)
SECRET_PREFIXES = tuple(prefix for prefix, _ in _INDEX_BY_PREFIX)
"""Every text with a secret contains one of these."""
SECRET_PATTERNS = tuple(pattern.pattern for _, _, pattern in _TOKENS)
_FICTITIOUS = re.compile(
    r"example|x{4,}|\*{3,}|\.{3}|1234567890|abcdef|your|placeholder|dummy|fake|test", re.IGNORECASE
)
_PASSWORD = re.compile(r":([^:@/]+)@")
MIN_ENTROPY = 3.0
"""Bits per character; a token with fewer is taken for a fictitious one."""


def find_secrets(text: str) -> Iterator[SensitiveMatch]:
    """Keys, tokens and passwords in a text; fictitious ones are left out."""
    for index in sorted({index for prefix, index in _INDEX_BY_PREFIX if prefix in text}):
        kind, prefixes, pattern = _TOKENS[index]
        if prefixes == ("://",) and "@" not in text:
            continue
        for match in pattern.finditer(text):
            if kind == "a private key" or _is_secret(kind, match.group()):
                shown = match.group()[: 20 if kind == "a private key" else 6]
                yield SensitiveMatch(kind, match.start(), match.end(), f"{shown}…")


def _is_secret(kind: str, value: str) -> bool:
    if _FICTITIOUS.search(value):
        return False
    if kind == "a password in a URL":
        password = _PASSWORD.search(value)
        return password is not None and password.group(1).lower() not in ("password", "pass", "secret", "pwd")
    return entropy(value) >= MIN_ENTROPY


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


_MAX_LOCAL_PART = 64
_MAX_DOMAIN = 320
_LOCAL_PART = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}\Z")
_DOMAIN = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
_PERSONAL = {
    "phone": re.compile(
        r"(?<![\w.+/=-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
        r"|(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4})(?![\w-]|\.\d)"
    ),
    "card": re.compile(
        r"(?<![\d.-])(?:\d{4}[ -]?){3}\d{1,7}(?![\d-]|\.\d)|(?<![\d.-])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?![\d-])"
    ),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "ssn": re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
}
_DIGITS = re.compile(r"[0-9][0-9 .()/-]{7,30}[0-9]")
MAX_NUMBER_CHARACTERS = 40
"""Of a number, with the character after it."""
_ACCOUNT = re.compile(r"\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?")
_NAMES = {
    "email": "an e-mail address",
    "phone": "a phone number",
    "card": "a card number",
    "iban": "a bank account (IBAN)",
    "ssn": "a social security number",
}
_SAMPLE_MAIL = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.(?:com|org|net))?$|^(?:no-?reply|support|info)@",
    re.IGNORECASE,
)
_SAMPLE_PHONE = re.compile(r"555[ .-]?01\d\d$")


def find_personal_data(text: str, kinds: Iterable[str]) -> Iterator[SensitiveMatch]:
    """Personal data of these kinds; addresses and numbers reserved for examples are left out."""
    requested = frozenset(kinds)
    if "email" in requested:
        yield from _emails(text)
    if "iban" in requested:
        for candidate in _ACCOUNT.finditer(text):
            for match in _PERSONAL["iban"].finditer(text, max(0, candidate.start() - 4), candidate.end() + 4):
                yield from _if_real("iban", match.group(), match.start())
    if requested & {"phone", "card", "ssn"}:
        yield from _numbers(text, requested)


def _emails(text: str) -> Iterator[SensitiveMatch]:
    """E-mail addresses. The domain is tried first, so that every @ costs the same however many there are."""
    at, done = text.find("@"), 0
    while at >= 0:
        is_domain = text[at + 1 : at + 2].isalnum()
        domain = _DOMAIN.match(text, at, at + _MAX_DOMAIN) if is_domain else None
        before = max(0, at - _MAX_LOCAL_PART - 1)
        local = _LOCAL_PART.search(text[before:at]) if domain else None
        if domain and local and before + local.start() >= done:
            done = domain.end()
            yield from _if_real("email", text[before + local.start() : done], before + local.start())
        at = text.find("@", max(at + 1, done))


def _numbers(text: str, requested: frozenset[str]) -> Iterator[SensitiveMatch]:
    """Phone, card and social security numbers: patterns are only tried around runs of digits and separators."""
    done = dict.fromkeys(requested, 0)
    for run in _DIGITS.finditer(text):
        shape, at = run.group(), run.start()
        dashes = shape.count("-")
        is_phone = text[at - 1 : at] in ("+", "(") or dashes == 2 or shape.count(".") == 2
        is_card = len(shape) >= 13
        if not (is_phone or is_card):
            continue
        start, end = max(0, at - 3), run.end() + 2
        for kind, fits in (("phone", is_phone), ("card", is_card), ("ssn", dashes == 2)):
            if fits and kind in requested:
                # The text is not cut here: the characters around it decide whether this is a separate number.
                for match in _PERSONAL[kind].finditer(text, max(start, done[kind]), end + MAX_NUMBER_CHARACTERS):
                    if match.start() >= end:
                        break
                    done[kind] = match.end()
                    yield from _if_real(kind, match.group(), match.start())


def _if_real(kind: str, value: str, start: int) -> Iterator[SensitiveMatch]:
    if _is_real(kind, value):
        masked = value[:2] + "…" + (value[value.index("@") :] if kind == "email" else value[-2:])
        yield SensitiveMatch(_NAMES[kind], start, start + len(value), masked)


def _is_real(kind: str, value: str) -> bool:
    if kind == "email":
        return not _SAMPLE_MAIL.search(value)
    if kind == "phone":
        digits = sum(map(str.isdigit, value))
        return 8 <= digits <= 15 and not _SAMPLE_PHONE.search(value)
    if kind == "card":
        return luhn(value) and len(set(value)) > 3
    return mod97(value) if kind == "iban" else True


def luhn(number: str) -> bool:
    """True if the check digit of a card number is correct (13 to 19 digits)."""
    digits = [int(char) for char in number if char.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] == 0:
        return False
    doubled = [d if i % 2 == 0 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def mod97(account: str) -> bool:
    """True if the check digits of an IBAN are correct. Source: ISO 13616."""
    flat = account.replace(" ", "")
    if not 15 <= len(flat) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in flat[4:] + flat[:4])) % 97 == 1
