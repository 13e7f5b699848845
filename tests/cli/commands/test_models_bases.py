"""``ftpipe models bases`` lists what can be trained, without a network unless it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_runner import CliEnvironment


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the model hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_models_bases_of_this_machine(cli: CliEnvironment) -> None:
    """The default first, before it was fetched; nothing is sent and nothing is made."""
    ran = cli.run("models", "bases")
    assert ran.code == 0
    default, small = ran.out.splitlines()[1:3]
    for part in ("smollm2-135m-instruct", "135M", "93.7 MB", "Apache-2.0", "free", "8,192", "default, fetched once"):
        assert part in default
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in small
    assert "memory: estimated for 4 rows of 256 tokens" in ran.err
    bases = cli.run("models", "bases", "--json").document["bases"]
    assert bases[0] == bases[0] | {"name": "smollm2-135m-instruct", "is_default": True, "fits_in_memory": True}
    assert not cli.server.calls
    assert not Path(".ftpipe").exists()


def test_models_bases_of_a_provider(cli: CliEnvironment) -> None:
    """With price, limit and last day; bases that take no jobs any more are left out and counted."""
    ran = cli.run("models", "bases", "--provider", "openai")
    [line] = [line for line in ran.out.splitlines() if line.startswith("gpt-4.1-mini-2025-04-14")]
    for part in ("supervised, dpo", "5.00 USD", "2025-06-30", "65,536", "2027-01-06", "2027-01-14", "default"):
        assert part in line
    assert "gpt-3.5-turbo-0125" not in ran.out
    assert "no job can be created any more: " in ran.err
    assert not cli.server.calls


def test_models_bases_online_marks_what_the_provider_lists(cli: CliEnvironment) -> None:
    bases = cli.run("models", "bases", "--provider", "openai", "--online", "--json").document["bases"]
    listed = {base["name"]: base["is_listed"] for base in bases}
    assert (listed["gpt-4.1-mini-2025-04-14"], listed["gpt-4.1-2025-04-14"]) == (True, False)


def test_models_bases_of_own_provider_are_those_it_lists(cli: CliEnvironment) -> None:
    """Nothing is known about them before it was asked."""
    Path("ftpipe.toml").write_text('[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\ntarget = "local"\n')
    ran = cli.run("models", "bases", "--provider", "mine")
    assert (ran.code, ran.out) == (0, "")
    assert "--online asks it" in ran.err
    assert "gpt-4o-mini-2024-07-18" in cli.run("models", "bases", "--provider", "mine", "--online").out
