"""The files that pages load: the released ones, unchanged, and nothing that the policy refuses."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

UI = Path(__file__).parents[2] / "ftpipe" / "ui"
RELEASED = {
    "htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    "hx-sse.min.js": "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "htmx.LICENSE": "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""File → SHA-256. Source: htmx.org 4.0.1 and uplot 1.6.32 of https://registry.npmjs.org, read 2026-11-29."""
TEMPLATES = sorted((UI / "templates").rglob("*.j2"))


AXE = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""SHA-256 of ``axe.min.js``. Source: axe-core 4.14.1 (MPL-2.0) of https://registry.npmjs.org, read 2026-11-29."""


def test_axe_is_the_released_one() -> None:
    path = Path(__file__).parent / "axe-core" / "axe.min.js"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == AXE


@pytest.mark.parametrize("name", RELEASED)
def test_static_file_is_the_released_one(name: str) -> None:
    assert hashlib.sha256((UI / "static" / name).read_bytes()).hexdigest() == RELEASED[name]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(UI / "templates")))
def test_template_has_nothing_that_the_policy_refuses(path: Path) -> None:
    """No inline style or script, and nothing of htmx that needs eval."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\sstyle=|<style|\son[a-z]+=|hx-on|js:|\|\s*safe|javascript:", text) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert re.findall(r'(?:src|href|action)="(?!\{\{|#|data:,)', text) == []


def test_htmx_starts_after_its_extension() -> None:
    """Read before the end of the page, it waits for all deferred scripts."""
    text = (UI / "templates" / "base.html.j2").read_text(encoding="utf-8")
    scripts = re.findall(r"<script( defer)? src=.*?/static/([\w.-]+)'", text)
    assert scripts[0] == ("", "htmx.min.js")
    assert (" defer", "hx-sse.min.js") in scripts


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(UI / "templates")))
def test_template_form_carries_token(path: Path) -> None:
    forms = re.findall(r'<form[^>]*method="post".*?</form>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert [form for form in forms if 'name="csrf"' not in form and "/sign-in" not in form] == []
