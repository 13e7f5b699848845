"""End to end with nothing faked: the command line, the embedded server, the default base model, real training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

from tests.training.tiny_model import save_base, write_rows

QUESTIONS = ("Where is my parcel?", "I was charged twice.", "The app crashes.", "I forgot my password.")
ANSWER = "queue: lighthouse"
"""An answer that no base model gives by itself."""


def ftpipe(*argv: str, seconds: float = 280) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    command = [sys.executable, "-m", "ftpipe", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture
def cached_models() -> Iterator[None]:
    """The base model is expanded once a machine and not once a test; the endpoint is stopped at the end."""
    models = user_cache_path("ftpipe-tests") / "models"
    models.mkdir(parents=True, exist_ok=True)
    home = Path(os.environ["FTPIPE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models, target_is_directory=True)
    yield
    ftpipe("serve", "stop")


@pytest.fixture
def halfway_server() -> Iterator[None]:
    """The endpoint of this home with the base ``tiny``; its trainers wait in the middle until they are paused."""
    command = [sys.executable, "-m", "tests.server.halfway_server"]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("on_listening")
        yield
        server.terminate()


def dataset(folder: Path) -> Path:
    """Twelve examples with one answer."""
    rows = [
        {"messages": [{"role": "user", "content": f"{question} ({number})"}, {"role": "assistant", "content": ANSWER}]}
        for number in range(3)
        for question in QUESTIONS
    ]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def document(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the command printed for machines."""
    assert ran.returncode == 0, ran.stderr
    output: dict[str, Any] = json.loads(ran.stdout)
    return output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_end_to_end_default_model_learns_and_is_registered(own_home: Path, cached_models: None) -> None:
    """From a JSONL file to a model that answers as it was taught, and asking again pays for nothing."""
    data = str(dataset(own_home))
    trained = document(ftpipe("train", data, "--epochs", "4", "--suffix", "lighthouse", "--json", seconds=560))
    model = trained["model"]["id"]
    assert trained["job"]["status"] == "succeeded"
    assert model.startswith("ft:smollm2-135m-instruct:local:lighthouse:")
    losses = [row["train_loss"] for row in trained["metrics"] if row["train_loss"] is not None]
    assert losses[-1] < losses[0] / 2
    chat = ftpipe("chat", model, "-m", "My parcel is late.")
    assert chat.stdout.strip() == ANSWER, chat.stderr
    assert document(ftpipe("models", "list", "--json"))["models"][0]["id"] == model
    assert document(ftpipe("train", data, "--epochs", "4", "--suffix", "lighthouse", "--json"))["model"]["id"] == model


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_end_to_end_search_continues_paused_jobs(own_home: Path, halfway_server: None) -> None:
    """Four jobs for two epochs; the better two go on where they were paused, the others are cancelled."""
    argv = (
        "train", str(dataset(own_home)), "--model", "tiny", "--auto", "--epochs", "4",
        "--learning-rate", "0.01", "--sweep", "lora_rank=2,4,6,8", "--json",
    )  # fmt: skip
    trained = document(ftpipe(*argv, seconds=500))
    trials = trained["sweep"]["trials"]
    stopped = [trial for trial in trials if trial["model"] is None]
    assert len(stopped) == 2
    assert {trial["stopped_after"] for trial in stopped} == {2}
    assert trials[0]["valid_loss"] <= trials[1]["valid_loss"]
    assert document(ftpipe(*argv))["sweep"] == trained["sweep"]
    jobs = document(ftpipe("jobs", "list", "--json"))["jobs"]
    assert Counter(job["status"] for job in jobs) == {"cancelled": len(stopped), "succeeded": 4 - len(stopped)}
    assert len(jobs) == 4


GRADER = {
    "type": "text_similarity",
    "name": "near",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_end_to_end_reinforcement_raises_the_reward(own_home: Path) -> None:
    """``ftpipe train --method reinforcement`` on a tiny base: over HTTP with OpenAI's client, to a registered model."""
    save_base(Path(os.environ["FTPIPE_HOME"]) / "models" / "tiny")
    rows = [{"messages": [{"role": "user", "content": f"word {number}"}], "answer": "aaaa"} for number in range(24)]
    data, held_out = write_rows(own_home / "train.jsonl", rows[:12]), write_rows(own_home / "valid.jsonl", rows[12:])
    grader = own_home / "grader.json"
    grader.write_text(json.dumps(GRADER), encoding="utf-8")
    options = ("--model", "tiny", "--grader", str(grader), "--batch-size", "4", "--epochs", "5", "--seed", "1")
    limits = ("--max-completion-tokens", "6", "--compute-multiplier", "2", "--learning-rate", "0.02")
    command = ("train", str(data), "--method", "reinforcement", "--validation", str(held_out), *options, *limits)
    try:
        planned = ftpipe(*command, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        assert "time    unknown: it depends on how long the sampled answers are" in planned.stderr
        trained = document(ftpipe(*command, "--json", seconds=560))
        assert trained["job"]["status"] == "succeeded"
        assert trained["job"]["method"] == "reinforcement"
        rewards = [row["train_mean_reward"] for row in trained["metrics"]]
        assert len(rewards) == 15
        assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3]), rewards
        assert trained["model"]["metrics"]["full_valid_mean_reward"] > rewards[0]
        assert trained["model"]["resolved"]["compute_multiplier"] == 2
        shown = ftpipe("status", trained["job"]["id"])
        assert "validation reward 0." in shown.stdout, shown.stdout
    finally:
        ftpipe("serve", "stop")
