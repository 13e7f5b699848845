"""Find in a page what could act."""

from __future__ import annotations

import re
from html.parser import HTMLParser

TAGS = """
html head meta title link script body a header nav main footer form input button p span bdi small strong code pre
section article div h1 h2 h3 h4 label select option datalist fieldset legend textarea details summary
table caption thead tbody tr th td ol ul li dl dt dd time figure figcaption
svg polyline line progress meter wbr hx-partial br iframe mark
"""
ALLOWED_TAGS = frozenset(TAGS.split())
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


class _Finder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ALLOWED_TAGS or (tag == "script" and not (values.get("src") or "").startswith("/static/")):
            self.found.append(f"<{tag}>")
        if tag == "iframe" and "sandbox" not in values:
            self.found.append("<iframe> without a sandbox")
        for name, value in attrs:
            is_url = name in ("href", "src", "action", "hx-get", "hx-post", "data-src")
            if name != "value":  # not shown, and sent back as it is
                self.found += CONTROL.findall(value or "")
            if name.startswith(("on", "hx-on")) or name in ("style", "srcdoc"):
                self.found.append(f"{tag} {name}")
            elif (is_url and not (value or "").startswith(("/", "#", "data:,"))) or (value or "").startswith("//"):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.found += CONTROL.findall(data)


def active_parts(html: str) -> list[str]:
    """Elements, attributes and characters that only text of a stranger could have brought into a page."""
    finder = _Finder()
    finder.feed(html)
    return finder.found
