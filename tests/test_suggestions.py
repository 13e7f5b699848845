"""Suggested names: only similar ones, and all of them if none is similar."""

from __future__ import annotations

import pytest

from ftpipe.config import setting_keys
from ftpipe.suggestions import did_you_mean, did_you_mean_or_remove, nearest_dotted_name, nearest_name, nearest_option


def test_nearest_name_needs_similarity() -> None:
    assert nearest_name("prepar", ["train", "prepare"]) == "prepare"
    assert nearest_name("zzzzzz", ["train", "prepare"]) == ""


def test_nearest_dotted_name_compares_last_part() -> None:
    assert nearest_dotted_name("epochs", setting_keys()) == "hyperparameters.n_epochs"
    assert nearest_dotted_name("zzzzzz", setting_keys()) == ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("--epoch", "--epochs"),
        ("--max-tok", "--max-tokens"),
        ("--max_tokens", "--max-tokens"),
        ("--num-epochs", "--epochs"),
        ("--n-epochs", "--epochs"),
        ("--dettach", "--detach"),
        ("--learning-rate", "--learning-rate-multiplier"),
        ("--zzz", ""),
        ("-z", ""),
    ],
)
def test_nearest_option(written: str, meant: str) -> None:
    known = ["-y", "--yes", "--epochs", "--max-tokens", "--max-cost", "--detach", "--learning-rate-multiplier"]
    assert nearest_option(written, known) == meant


def test_nearest_option_does_not_count_dashes() -> None:
    """Without them, --epoch has little in common with --detach."""
    assert nearest_option("--epoch", ["--detach", "--watch"]) == ""


def test_did_you_mean_lists_names_without_a_similar_one() -> None:
    assert did_you_mean("opnai", ("openai", "local")) == "Did you mean 'openai'?"
    assert did_you_mean("zzz", ("openai", "local")) == "Known: local, openai"


def test_did_you_mean_or_remove() -> None:
    known = frozenset({"messages", "tools"})
    assert did_you_mean_or_remove("mesages", known) == "Did you mean 'messages'?"
    assert did_you_mean_or_remove("zzz", known) == "Remove it. Known: messages, tools."
