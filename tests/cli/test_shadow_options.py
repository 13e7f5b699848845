"""The options of shadow traffic become settings, or an error that says which one is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.cli.shadow_options import ShadowOptions, shadow_settings
from ftpipe.errors import UsageError
from ftpipe.server.settings import ShadowPair
from tests.cli.cli_runner import CliEnvironment

PAIR = ("ft:gpt-4o-mini-2024-07-18:acme::abc=org/name",)


def test_options_become_settings(tmp_path: Path) -> None:
    grader = {
        "type": "string_check",
        "name": "g",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "a",
    }
    (tmp_path / "grader.json").write_text(json.dumps(grader))
    options = ShadowOptions(
        shadow_pairs=PAIR * 2,
        share=0.25,
        shadow_repeat=True,
        shadow_grader=tmp_path / "grader.json",
        shadow_answers=True,
        shadow_price="0.2,0.8",
        shadow_max_cost=5.0,
    )
    settings = shadow_settings(options)
    assert settings is not None
    assert settings.pairs == (ShadowPair("ft:gpt-4o-mini-2024-07-18:acme::abc", "org/name"),)
    assert (settings.share, settings.repeats_old, settings.keeps_answers, settings.max_cost) == (0.25, True, True, 5.0)
    assert settings.grader == grader
    assert settings.price is not None
    assert (settings.price.input, settings.price.output) == (0.2, 0.8)


def test_default_keeps_no_answers_and_a_tenth() -> None:
    settings = shadow_settings(ShadowOptions(shadow_pairs=PAIR))
    assert settings is not None
    assert (settings.share, settings.keeps_answers, settings.price, settings.grader) == (0.1, False, None, None)
    assert shadow_settings(ShadowOptions()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.5}, "--share needs --shadow"),
        ({"shadow_answers": True}, "--shadow-answers needs --shadow"),
        ({"shadow_pairs": ("one",)}, "OLD=NEW"),
        ({"shadow_pairs": ("a=",)}, "OLD=NEW"),
        ({"shadow_pairs": ("a=a",)}, "OLD=NEW"),
        ({"shadow_pairs": PAIR, "shadow_price": "1,2"}, "need each other"),
        ({"shadow_pairs": PAIR, "shadow_max_cost": 2.0}, "need each other"),
        ({"shadow_pairs": PAIR, "shadow_price": "x", "shadow_max_cost": 2.0}, "is not a price"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shadow_settings(ShadowOptions(**options))


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"type": "python"}', "[" * 100_000])
def test_wrong_grader(tmp_path: Path, content: str) -> None:
    path = tmp_path / "grader.json"
    path.write_text(content)
    with pytest.raises(UsageError):
        shadow_settings(ShadowOptions(shadow_pairs=PAIR, shadow_grader=path))
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        shadow_settings(ShadowOptions(shadow_pairs=PAIR, shadow_grader=path))


def test_serve_refuses_wrong_options(cli: CliEnvironment) -> None:
    """Before anything is started."""
    ran = cli.run("serve", "--share", "0.5")
    assert (ran.code, "--share needs --shadow" in ran.err) == (2, True)
    assert cli.run("serve", "--shadow", "a=b", "--share", "0").code == 2
    assert cli.run("serve", "--shadow", "a=b", "--share", "1.5").code == 2
