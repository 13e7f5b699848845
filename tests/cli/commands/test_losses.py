"""``ftpipe losses``: the rows on top, their rules, and what is refused before anything is sent."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_runner import CliEnvironment, CommandResult, chat_file
from tests.fakes.openai_client import FakeOpenAI, status_error


class FakeLossEndpoint(FakeOpenAI):
    """An ftpipe endpoint: row 13 is as hard after training as before, the others are learnt."""

    def post(self, path: str, *, body: dict[str, str], files: Any, **_: Any) -> Iterator[dict[str, Any]]:
        """The losses of every line of the file."""
        self.calls[path] += 1
        models, (_, sent, _) = json.loads(body["models"]), files[0][1]
        lines = sent.read().splitlines()
        rows = [
            {"line": number, "tokens": 5, "losses": [2.0 + number / 100, 3.5 if number == 13 else 0.01]}
            for number, _ in enumerate(lines, start=1)
        ]
        return iter([{"done": 0, "total": len(models) * len(lines)}, {"rows": rows[:4]}, {"rows": rows[4:]}])


@pytest.fixture
def losses(cli: CliEnvironment) -> CliEnvironment:
    """A command line whose endpoint returns losses, and a model that was trained on a file with a contradiction."""
    cli.server = FakeLossEndpoint()
    again = {"messages": [{"role": "user", "content": "What is 2 plus 14?"}, {"role": "assistant", "content": "No."}]}
    ran = cli.run("train", str(chat_file(extra=json.dumps(again) + "\n")), "--provider", "local", "--yes")
    assert ran.code == 0, ran.err
    return cli


def rank(cli: CliEnvironment, *argv: str) -> CommandResult:
    """Rank the rows of the model that was trained."""
    model = cli.run("models", "list", "--json").document["models"][0]["id"]
    return cli.run("losses", model, *argv)


def test_losses_ranks_the_training_data_of_the_model(losses: CliEnvironment) -> None:
    """Without a file named; with the rule that knows about the line, in every form."""
    ran = rank(losses, "--json", "--csv", "rows.csv", "--top", "5")
    ranking = ran.document["ranking"]
    assert [row["line"] for row in ranking["rows"][:2]] == [13, 1]
    assert (ranking["rows"][0]["prompt"], ranking["rank_by"]) == ("What is 2 plus 14?", "tuned")
    assert "FT803" in ranking["rows"][0]["rule_codes"]
    assert ran.document["mean_tuned_loss"] < ran.document["mean_base_loss"]
    with Path("rows.csv").open(newline="") as file:
        assert [row["line"] for row in csv.DictReader(file)][:2] == ["13", "1"]
    page = Path(ran.document["files"]["html"]).read_text(encoding="utf-8")
    assert page.count('class="marked"') == 5
    assert page.count("<circle") == 13
    assert "What is 2 plus 14?" in page
    text = rank(losses, "--rank-by", "base", "--top", "2").out
    assert "… and 11 rows not shown, ranked by the base model's loss" in text
    assert text.splitlines()[5].split()[0] == "13"


def test_losses_needs_data_if_the_file_has_changed(losses: CliEnvironment) -> None:
    """The model's own data are known by their digest."""
    Path("train.jsonl").write_text(Path("train.jsonl").read_text() + "\n")
    chat_file("train.jsonl", rows=11)
    ran = rank(losses)
    assert (ran.code, "has changed since" in ran.err, "--data" in ran.err) == (2, True, True)
    assert rank(losses, "--data", "train.jsonl").code == 0
    Path("train.jsonl").unlink()
    assert "does not exist any more" in rank(losses).err


def test_losses_refuses_other_options_models_and_providers(losses: CliEnvironment) -> None:
    """A gate, two models, the baseline itself, a hosted provider, an older server; nothing is sent."""
    data = str(chat_file("rows.jsonl"))
    assert "no option --gate" in rank(losses, "--gate", "exact>=0").err
    assert losses.run("losses", "a", "b", "--data", data, "--baseline", "c").code == 2
    assert "--baseline" in losses.run("losses", "a", "--baseline", "a", "--data", data).err
    assert "no option --rank-by" in losses.run("evaluate", "a", "--rank-by", "delta", "--data", data).err
    hosted = losses.run("losses", "a", "--baseline", "b", "--data", data, "--provider", "openai")
    assert (hosted.code, "OpenAI does not return losses" in hosted.err) == (2, True)
    assert losses.server.calls["/ftpipe/losses"] == 0
    losses.server.post = refuse  # type: ignore[attr-defined]  # an older server
    old = rank(losses)
    assert (old.code, "ftpipe serve stop" in old.err) == (5, True)


def refuse(*_: Any, **__: Any) -> Any:
    """A route that is not there."""
    raise status_error(404, code="unknown_url", message="Unknown request URL")
