"""``ftpipe config prices``: show prices, print them as a file, and take one."""

from __future__ import annotations

from pathlib import Path

from tests.cli.cli_runner import CliEnvironment, chat_file


def test_config_prices_shows_source_and_date_of_each_row(cli: CliEnvironment) -> None:
    rows = cli.run("config", "prices", "--json").document["prices"]
    [mini] = [row for row in rows if (row["provider"], row["model"]) == ("openai", "gpt-4.1-mini-2025-04-14")]
    assert (mini["training"], mini["input"], mini["output"], mini["currency"]) == (5.0, 0.8, 3.2, "USD")
    assert all(row["source"] and row["as_of"] for row in rows)
    assert {row["provider"] for row in rows} == {"openai", "azure", "nebius", "together", "fireworks"}
    assert "gpt-4.1-mini-2025-04-14" in cli.run("config", "prices").out


def test_config_prices_takes_what_it_prints(cli: CliEnvironment) -> None:
    """Changed by hand in between; estimates then use the new price, with its date and source."""
    text = cli.run("config", "prices", "--toml").out
    before = cli.run("config", "prices", "--json").document
    assert before["file"] is None
    changed = text.replace('"gpt-4.1-mini-2025-04-14" = 5.0', '"gpt-4.1-mini-2025-04-14" = 6.0')
    assert changed != text
    Path("mine.toml").write_text(changed)
    after = cli.run("config", "prices", "mine.toml", "--json").document
    assert after["file"]
    assert len(after["prices"]) == len(before["prices"])
    assert {row["model"] for row in after["prices"]} == {row["model"] for row in before["prices"]}
    command = ("prepare", str(chat_file()), "--provider", "openai", "--model", "gpt-4.1-mini", "--json")
    cost = cli.run(*command).document["cost"]
    assert (cost["price_per_million"], cost["price_as_of"]) == (6.0, "2025-06-30")


def test_config_prices_refuses_a_malformed_file(cli: CliEnvironment) -> None:
    Path("mine.toml").write_text("[openai]\nsource = 'x'\nas_of = 2026-11-01\n[openai.training]\nm = 'cheap'\n")
    ran = cli.run("config", "prices", "mine.toml")
    assert ran.code == 2
    assert 'openai.training."m" is not a number' in ran.err and "--toml" in ran.err
    assert cli.run("config", "prices", "none.toml").code == 2
    assert cli.run("config", "prices", "--json").document["file"] is None


def test_reports_do_not_warn_about_the_prices_of_ftpipe(cli: CliEnvironment) -> None:
    """`ftpipe doctor` does, in one line."""
    data = str(chat_file())
    for command in (("prepare", data, "--provider", "openai"), ("train", data, "--provider", "openai", "--dry-run")):
        ran = cli.run(*command)
        assert "days old" not in ran.out + ran.err
        assert "second-hand" not in ran.out + ran.err
    lines = [line for line in cli.run("doctor").out.splitlines() if "days old" in line]
    assert len(lines) == 1 and "prices" in lines[0]
