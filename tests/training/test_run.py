"""A whole job on a tiny base: what it writes, how it ends, and that stopping it changes nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ftpipe.child_environment import python_path
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.run import run_job
from tests.training.tiny_model import chat, events, make_job, result, rows, save_base, write_rows


def weights(folder: Path, step: int) -> str:
    """Digest of a checkpoint's weights."""
    return hashlib.sha256((folder / f"checkpoints/step-{step}/adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of two epochs of three steps that ran to its end."""
    folder = make_job(tmp_path_factory.mktemp("done") / "job", base)
    assert run_job(JobDirectory(folder)) == "succeeded"
    return folder


def test_run_job_writes_result(done: Path) -> None:
    """Status, steps and tokens of all passes."""
    ended = result(done)
    assert (ended["status"], ended["error"], ended["final_step"]) == ("succeeded", None, 6)
    assert ended["trained_tokens"] > 12 * 2 * 30


def test_run_job_events_match_openai(done: Path) -> None:
    """Started, each step with its losses, each checkpoint."""
    reported = events(done)
    messages = [event["message"] for event in reported]
    assert messages[0] == "Fine-tuning job started"
    assert messages[1].startswith("The base model is loaded in ")
    assert messages[-1] == "Checkpoint created at step 6"
    metrics = [event for event in reported if event["type"] == "metrics"]
    assert [event["data"]["step"] for event in metrics] == [1, 2, 3, 4, 5, 6]
    assert "full validation loss=" in metrics[2]["message"]
    assert {"train_loss", "train_mean_token_accuracy", "total_steps"} <= metrics[0]["data"].keys()


def test_run_job_progress_has_resolved_hyperparameters(done: Path) -> None:
    """Also how fast it went."""
    progress = json.loads((done / "progress.json").read_text(encoding="utf-8"))
    shown = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
    rate = progress["hyperparameters"].pop("learning_rate")
    shown |= {"max_length": 512, "quantization": "none", "gradient_checkpointing": False}
    assert progress["hyperparameters"].pop("precision") in ("float32", "bfloat16")
    assert progress["peak_memory_bytes"] is None or progress["peak_memory_bytes"] > 10**7
    assert progress["hyperparameters"] == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0, **shown}
    assert 0 < rate <= 1
    assert (progress["step"], progress["total_steps"]) == (6, 6)
    assert progress["tokens_per_second"] > 0


def test_run_job_metrics_csv_matches_openai(done: Path) -> None:
    """A cell that was not measured is empty."""
    with (done / "metrics.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [row["step"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert table[1]["valid_loss"] == ""
    assert float(table[5]["valid_loss"]) > 0


def test_run_job_writes_checkpoint_per_epoch(done: Path) -> None:
    """The manifest names every file; nothing but safetensors and JSON lies there."""
    assert sorted(folder.name for folder in (done / "checkpoints").iterdir()) == ["step-3", "step-6"]
    folder = done / "checkpoints/step-6"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert manifest["files"]["adapter_model.safetensors"]["sha256"] == weights(done, 6)
    assert "full_valid_loss" in manifest["metrics"]


def test_run_job_reduces_loss(base: Path, tmp_path: Path) -> None:
    """The loss falls by more than a third on a task that can be learnt."""
    folder = make_job(tmp_path / "job", base, n_epochs=10, learning_rate=0.02, target_modules="all-linear", valid=False)
    run_job(JobDirectory(folder))
    losses = [event["data"]["train_loss"] for event in events(folder) if event["type"] == "metrics"]
    assert losses[-1] < 0.67 * losses[0]


@pytest.mark.parametrize("keep", [1, 3, 5])
def test_run_job_keeps_the_newest_checkpoints(base: Path, tmp_path: Path, keep: int) -> None:
    """As many as the spec says."""
    folder = make_job(tmp_path / "job", base, n_epochs=6, valid=False, keep_checkpoints=keep)
    run_job(JobDirectory(folder))
    steps = [checkpoint.step for checkpoint in JobDirectory(folder).checkpoints()]
    assert steps == [3, 6, 9, 12, 15, 18][-keep:]


def test_run_job_is_deterministic(done: Path, base: Path, tmp_path: Path) -> None:
    """Bit for bit; another seed gives another one."""
    again, other = make_job(tmp_path / "again", base), make_job(tmp_path / "other", base, seed=8)
    run_job(JobDirectory(again))
    run_job(JobDirectory(other))
    assert weights(again, 6) == weights(done, 6)
    assert weights(other, 6) != weights(done, 6)


@pytest.mark.parametrize("after", [1, 3, 4])
def test_paused_job_resumes_to_same_model(done: Path, base: Path, tmp_path: Path, after: int) -> None:
    """Paused within an epoch and at its end; no step is reported twice."""
    folder = make_job(tmp_path / "job", base)
    calls = iter(range(1, 100))
    assert run_job(JobDirectory(folder), lambda: next(calls) == after) == "paused"
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    assert (progress["status"], progress["step"]) == ("paused", after)
    assert not (folder / "result.json").exists()
    assert run_job(JobDirectory(folder)) == "succeeded"
    assert weights(folder, 6) == weights(done, 6)
    steps = [event["data"]["step"] for event in events(folder) if event["type"] == "metrics"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (folder / "metrics.csv").read_text(encoding="utf-8") == (done / "metrics.csv").read_text(encoding="utf-8")


def run_process(folder: Path) -> subprocess.Popen[bytes]:
    """The trainer as the server starts it, with the one thread that the runs in this process have."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "ftpipe.training", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a step is reported, or the process has ended."""
    file = folder / "events.ndjson"
    while process.poll() is None and not (file.exists() and f"Step {step}/" in file.read_text(encoding="utf-8")):
        time.sleep(0.02)


@pytest.mark.slow
def test_stopped_trainer_process_resumes_to_same_model(base: Path, tmp_path: Path) -> None:
    """Kill -9, terminate and pause the real process one after the other, against a run that was left alone.

    The rest is done in this process, whose libraries are loaded already.
    """
    data = write_rows(tmp_path / "train.jsonl", rows(48))
    left, stopped = (make_job(tmp_path / name, base, data=data, valid=False) for name in ("left", "stopped"))
    for step, how in ((5, signal.SIGKILL), (13, signal.SIGTERM), (17, signal.SIGUSR1)):
        process = run_process(stopped)
        wait_for_step(stopped, step, process)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0 if how == signal.SIGUSR1 else -how, b"")
        assert not (stopped / "result.json").exists()
    assert run_job(JobDirectory(stopped)) == "succeeded"
    assert run_job(JobDirectory(left)) == "succeeded"
    assert weights(stopped, 24) == weights(left, 24)
    assert (stopped / "metrics.csv").read_bytes() == (left / "metrics.csv").read_bytes()


def test_run_job_removes_partial_files(base: Path, tmp_path: Path) -> None:
    """A torn last event does not swallow the next one."""
    folder = make_job(tmp_path / "job", base, n_epochs=1, valid=False)
    (folder / "checkpoints/.step-3").mkdir(parents=True)
    (folder / ".rendezvous").mkdir()
    (folder / ".progress.json.4711").write_text("{", encoding="utf-8")
    (folder / "events.ndjson").write_text('{"created_at": 1, "mess', encoding="utf-8")
    assert run_job(JobDirectory(folder)) == "succeeded"
    assert not list(folder.rglob(".*"))
    lines = (folder / "events.ndjson").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1])["message"] == "Fine-tuning job started"


@pytest.mark.parametrize(
    ("requested", "code", "param"),
    [
        ({"n_epochs": 99}, "invalid_hyperparameters", "hyperparameters"),
        ({"method": "magic"}, "invalid_hyperparameters", "hyperparameters"),
        ({"method": "reinforcement"}, "grader_error", "method.reinforcement.grader"),
        ({"data": []}, "invalid_training_file", "training_file"),
        ({"data": [chat("a", "b", weights=[0])]}, "invalid_training_file", "training_file"),
    ],
)
def test_run_job_fails_with_reason(
    base: Path, tmp_path: Path, requested: dict[str, Any], code: str, param: str
) -> None:
    """The result names code and parameter, and an event says it in words."""
    extra = dict(requested)
    data = write_rows(tmp_path / "bad.jsonl", extra.pop("data")) if "data" in extra else None
    folder = make_job(tmp_path / "job", base, data=data, **extra)
    assert run_job(JobDirectory(folder)) == "failed"
    error = result(folder)["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert events(folder)[-1]["level"] == "error"


def test_run_job_fails_for_unknown_base(tmp_path: Path) -> None:
    """The message names it."""
    folder = make_job(tmp_path / "job", tmp_path / "nowhere")
    assert run_job(JobDirectory(folder)) == "failed"
    assert "nowhere" in result(folder)["error"]["message"]


def test_run_job_splits_rows_of_rewriting_template(tmp_path: Path) -> None:
    """A warning says how many conversations became several sequences."""
    base = save_base(tmp_path / "base", template="thinking")
    data = write_rows(tmp_path / "d.jsonl", [chat("a", "one", "b", "two"), chat("c", "three")])
    folder = make_job(tmp_path / "job", base, data=data, valid=False, n_epochs=1, batch_size=1)
    assert run_job(JobDirectory(folder)) == "succeeded"
    assert result(folder)["final_step"] == 3
    assert any("1 conversations are trained as one sequence per answer" in event["message"] for event in events(folder))


def test_run_job_skips_bad_rows_if_the_job_allows_it(base: Path, tmp_path: Path) -> None:
    """One bad row costs that row and not the job; an event counts and names the rows."""
    opened = {"messages": [{"role": "assistant", "content": "Hello."}, *chat("a", "b", system="")["messages"]]}
    bad = [chat("a", "long " * 200), chat("c", "d", weights=[0])]
    data = write_rows(tmp_path / "d.jsonl", [opened, *bad, chat("e", "f")])
    requested: dict[str, Any] = {"data": data, "valid": False, "n_epochs": 1, "batch_size": 1}
    failed = make_job(tmp_path / "failed", base, **requested)
    assert run_job(JobDirectory(failed)) == "failed"
    assert "line 2: its answer ends after" in result(failed)["error"]["message"]
    folder = make_job(tmp_path / "job", base, **requested, skip_bad_rows=True)
    assert run_job(JobDirectory(folder)) == "succeeded"
    assert result(folder)["final_step"] == 2
    start = "2 rows of the training file cannot be trained on and were left out: line 2: its answer ends after"
    assert [event["level"] for event in events(folder) if event["message"].startswith(start)] == ["warn"]
