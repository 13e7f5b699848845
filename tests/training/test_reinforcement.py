"""Reinforcement on a tiny base: rewards rise, a stopped run resumes exactly, and graders that fail fail the job."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ftpipe.grading.score_model import ModelReply
from ftpipe.inference.decoder import Decoder
from ftpipe.inference.engine import build_batch_model
from ftpipe.inference.key_value_slots import SlotPool
from ftpipe.modeling import memory
from ftpipe.training import grader_chats, rollouts
from ftpipe.training.grader_chats import GraderChatsFile, ServerModels
from ftpipe.training.grpo import GRPOObjective, Sample
from ftpipe.training.job_directory import JobDirectory
from ftpipe.training.rewards import RewardError, RewardFunction
from ftpipe.training.run import run_job
from tests.grading.test_python_grader import needs_sandbox
from tests.training.test_run import run_process, wait_for_step
from tests.training.tiny_model import chat, events, make_job, result, with_workers, write_rows

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LIKE = {
    "type": "text_similarity",
    "name": "like",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "tiny",
    "input": [{"role": "user", "content": "{{item.answer}}: {{sample.output_text}}"}],
}
CODE = {
    "type": "python",
    "name": "code",
    "source": "def grade(sample, item):\n    return 1.0 / (len(sample['output_text']) % item['n'])",
}
SAME = {"type": "string_check", "name": "same", "input": "x", "reference": "x", "operation": "eq"}


def formula(text: str) -> dict[str, Any]:
    """A multi grader that computes ``text`` from the score ``same``, which is 1."""
    return {"type": "multi", "name": "formula", "graders": {"same": SAME}, "calculate_output": text}


def make_reinforcement(
    folder: Path, base: Path, *, grader: dict[str, Any] | None = LIKE, answer: str = ALPHABET, **requested: Any
) -> Path:
    """A job with one step for each pass over its four rows."""
    rows = [{**chat(f"word {number}"), "answer": answer} for number in range(4)]
    folder.parent.mkdir(exist_ok=True)
    data = write_rows(folder.parent / f"{folder.name}.jsonl", rows)
    settings = {"n_epochs": 3, "max_completion_tokens": 4, "compute_multiplier": 0.5, "eval_interval": 2}
    job = make_job(folder, base, data=data, method="reinforcement", **settings | requested)
    spec = json.loads((job / "spec.json").read_text(encoding="utf-8"))
    spec |= {"grader": grader, "validation_file": str(data)}
    (job / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return job


def weights(folder: Path, step: int) -> str:
    """Digest of a checkpoint's weights."""
    return hashlib.sha256((folder / f"checkpoints/step-{step}/adapter_model.safetensors").read_bytes()).hexdigest()


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What each step reported."""
    return [event["data"] for event in events(folder) if event["type"] == "metrics"]


def calls_until(number: int) -> Callable[[], bool]:
    """True at one call and false at all others."""
    calls = iter(range(1, 10_000))
    return lambda: next(calls) == number


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that ran to its end."""
    folder = make_reinforcement(tmp_path_factory.mktemp("reinforcement") / "job", base)
    assert run_job(JobDirectory(folder)) == "succeeded", result(folder)
    return folder


def test_run_job_reports_rewards(done: Path) -> None:
    """Each step has its rewards in events and CSV; each evaluation and the last step have a checkpoint."""
    reported = metrics(done)
    assert [row["step"] for row in reported] == [1, 2, 3]
    assert all(0 <= row["train_mean_reward"] <= 1 for row in reported)
    assert all(1 <= row["completion_tokens_mean"] <= 4 for row in reported)
    assert reported[0]["kl"] < 1e-3
    assert [row["step"] for row in reported if "full_valid_mean_reward" in row] == [2, 3]
    with (done / "metrics.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert float(table[2]["train_mean_reward"]) == reported[2]["train_mean_reward"]
    assert table[0]["full_valid_mean_reward"] == ""
    assert [checkpoint.step for checkpoint in JobDirectory(done).checkpoints()] == [2, 3]
    assert events(done)[2]["message"].startswith("Step 1/3: mean reward=")
    assert result(done)["trained_tokens"] > 3 * 16 * 20
    assert not list(done.glob(".*"))


def test_run_job_resolves_hyperparameters(done: Path) -> None:
    """With those that only reinforcement has."""
    shown = JobDirectory(done).read_progress().hyperparameters
    assert (shown["compute_multiplier"], shown["eval_interval"], shown["eval_samples"]) == (0.5, 2, 1)
    assert (shown["beta"], shown["max_completion_tokens"], shown["lora_dropout"]) == (0.04, 4, 0.0)


@pytest.mark.usefixtures("float32")
def test_ratios_come_from_the_trainer_alone(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder may compute in another precision: before the first update nothing has moved."""
    monkeypatch.setattr(
        rollouts,
        "build_batch_model",
        lambda model, folder, device, **options: build_batch_model(model, folder, device, "bfloat16", **options),
    )
    loss = GRPOObjective.loss
    shifts: list[float] = []

    def compare(self: GRPOObjective, module: Any, rows: Sequence[Sample]) -> Any:
        losses_N, _ = module([row.example for row in rows], by_token=True)
        sampled_N = torch.tensor([value for row in rows for value in row.sampled_logprobs])
        shifts.append(float((losses_N.detach() + sampled_N).abs().max()))
        return loss(self, module, rows)

    monkeypatch.setattr(GRPOObjective, "loss", compare)
    folder = make_reinforcement(tmp_path / "job", base, n_epochs=1)
    assert run_job(JobDirectory(folder)) == "succeeded"
    first, second = shifts[: len(shifts) // 2], shifts[len(shifts) // 2 :]
    assert max(first) < 1e-5 < max(second)
    assert metrics(folder)[0]["kl"] == 0


def test_decoder_takes_the_memory_that_is_planned(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of answers and of beginnings of prompts; after each step they and the adapters are gone."""
    planned: list[int] = []
    taken: list[int] = []
    decoders: list[Decoder] = []
    plan, allocate = memory.sampling_bytes, SlotPool._allocate

    def record_plan(*args: Any) -> int:
        planned.append(plan(*args))
        return planned[-1]

    def record_allocation(pool: SlotPool, slots: int) -> torch.Tensor:
        tensor = allocate(pool, slots)
        taken.extend(decoder.slots.bytes + tensor.nbytes + decoder.prefixes.bytes for decoder in decoders)
        return tensor

    def record_decoder(*args: Any, **options: Any) -> Any:
        model = build_batch_model(*args, **options)
        assert isinstance(model, Decoder)
        decoders.append(model)
        return model

    monkeypatch.setattr(memory, "sampling_bytes", record_plan)
    monkeypatch.setattr(SlotPool, "_allocate", record_allocation)
    monkeypatch.setattr(rollouts, "build_batch_model", record_decoder)
    # 4 prompts and 8 answers to each of them: as many as are computed at a time
    folder = make_reinforcement(tmp_path / "job", base, compute_multiplier=1, n_epochs=1, max_completion_tokens=20)
    assert run_job(JobDirectory(folder)) == "succeeded", result(folder)
    assert 0.9 * planned[-1] < max(taken) <= planned[-1]
    assert (decoders[0].slots.bytes, decoders[0].prefixes.bytes, len(decoders[0]._adapters)) == (0, 0, 0)


@pytest.mark.parametrize("call", [1, 3, 8])
def test_paused_reinforcement_resumes_to_same_model(done: Path, base: Path, tmp_path: Path, call: int) -> None:
    """Also if the pause comes while answers are sampled: the step is taken again, and is reported once."""
    folder = make_reinforcement(tmp_path / "job", base)
    assert run_job(JobDirectory(folder), calls_until(call)) == "paused"
    assert run_job(JobDirectory(folder)) == "succeeded"
    assert weights(folder, 3) == weights(done, 3)
    assert (folder / "metrics.csv").read_bytes() == (done / "metrics.csv").read_bytes()
    assert [row["step"] for row in metrics(folder)] == [1, 2, 3]


class Killed(BaseException):
    """Ends a run as ``kill -9`` does: nothing is caught, and nothing more is written."""


@pytest.mark.parametrize(("reported", "call", "resumed"), [(0, 2, 0), (1, 2, 0), (2, 1, 0), (2, 2, 2)])
def test_killed_reinforcement_resumes_from_its_last_state(
    done: Path, base: Path, tmp_path: Path, reported: int, call: int, resumed: int
) -> None:
    """A step that was reported and not saved is taken again, and is not reported a second time."""
    folder = make_reinforcement(tmp_path / "job", base)
    is_killed = calls_until(call)  # the first call after a step comes before its state is saved

    def kill() -> bool:
        if len(metrics(folder)) == reported and is_killed():
            raise Killed
        return False

    with pytest.raises(Killed):
        run_job(JobDirectory(folder), kill)
    assert run_job(JobDirectory(folder)) == "succeeded"
    messages = [event["message"] for event in events(folder)]
    assert [text for text in messages if text.startswith("Training resumed")] == (
        [f"Training resumed after step {resumed}/3"] if resumed else []
    )
    assert [row["step"] for row in metrics(folder)] == [1, 2, 3]
    assert [text for text in messages if text.startswith("Checkpoint")] == [
        f"Checkpoint created at step {step}" for step in (2, 3)
    ]
    assert weights(folder, 3) == weights(done, 3)
    assert (folder / "metrics.csv").read_bytes() == (done / "metrics.csv").read_bytes()
    assert not list(folder.glob(".*"))


def wait_for_sampling(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the adapter that answers are sampled with is there, or the process has ended."""
    while process.poll() is None and not JobDirectory(folder).policy_dir.exists():
        time.sleep(0.001)


@pytest.mark.slow
def test_stopped_process_resumes_to_same_model(base: Path, tmp_path: Path) -> None:
    """Kill -9, terminate and pause the real process while it samples, against a run that was left alone."""
    settings: dict[str, Any] = {"n_epochs": 12, "max_completion_tokens": 60, "eval_interval": 4}
    left, stopped = (make_reinforcement(tmp_path / name / "job", base, **settings) for name in ("left", "stopped"))
    for step, how in ((3, signal.SIGKILL), (6, signal.SIGTERM), (9, signal.SIGUSR1)):
        process = run_process(stopped)
        wait_for_step(stopped, step, process)
        wait_for_sampling(stopped, process)
        process.send_signal(how)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0 if how == signal.SIGUSR1 else -how, b"")
        assert not (stopped / "result.json").exists()
    assert run_job(JobDirectory(stopped)) == "succeeded"
    assert run_job(JobDirectory(left)) == "succeeded"
    assert weights(stopped, 12) == weights(left, 12)
    assert (stopped / "metrics.csv").read_bytes() == (left / "metrics.csv").read_bytes()
    assert [row["step"] for row in metrics(stopped)] == list(range(1, 13))


def test_same_rewards_change_nothing_and_are_reported(base: Path, tmp_path: Path) -> None:
    """The job ends well, and says that nothing was learnt."""
    folder = make_reinforcement(tmp_path / "job", base, grader=SAME)
    assert run_job(JobDirectory(folder)) == "succeeded"
    assert weights(folder, 3) == weights(folder, 2)
    last = events(folder)[-1]
    assert last["level"] == "warn"
    assert last["message"].startswith("Nothing was learnt: the answers to 100% of the prompts all got the same reward")
    assert [row["train_mean_reward"] for row in metrics(folder)] == [1, 1, 1]


@contextmanager
def judged(folder: Path, reply: Callable[[str], ModelReply], *, texts: list[str] | None = None) -> Iterator[None]:
    """A server that answers what the grader of a job asks, by the text of the message."""
    file, is_over = GraderChatsFile(JobDirectory(folder)), threading.Event()

    def answer() -> None:
        answered = ""
        while not is_over.is_set():
            chats = file.read_chats()
            if chats is not None and chats.id != answered:
                answered = chats.id
                asked = [body["messages"][0]["content"] for body in chats.bodies]
                file.write_replies(chats.id, [reply(text) for text in asked])
                if texts is not None:
                    texts.extend(asked)
            time.sleep(0.001)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def by_length(text: str) -> ModelReply:
    """A judge that likes some answers more than others."""
    return ModelReply(f'{{"result": {len(text) % 7 / 10}}}', model="tiny", prompt_tokens=9, completion_tokens=5)


def test_model_scores_answers(base: Path, tmp_path: Path) -> None:
    """Rewards are the model's results, and events say what it did in the API's names; a pause changes nothing."""
    multi = {"type": "multi", "name": "m", "graders": {"j": JUDGE, "same": SAME}, "calculate_output": "j + same"}
    left, paused = (
        make_reinforcement(tmp_path / name / "job", base, grader=multi, n_epochs=2) for name in ("left", "paused")
    )
    texts: list[str] = []
    with judged(left, by_length, texts=texts):
        assert run_job(JobDirectory(left)) == "succeeded", result(left)
    with judged(paused, by_length):
        assert run_job(JobDirectory(paused), calls_until(3)) == "paused"
        assert run_job(JobDirectory(paused)) == "succeeded"
    assert texts
    assert all(text.startswith(f"{ALPHABET}: ") for text in texts)
    assert weights(left, 2) == weights(paused, 2)
    assert not list(paused.glob(".*"))
    first, last = metrics(left)
    assert first["train_mean_reward"] > 1
    scores = {grader["name"]: grader for grader in last["scores"]["graders"]}
    assert last["train_mean_reward"] == pytest.approx(1 + scores["j"]["train_reward_mean"], abs=1e-4)
    assert scores["same"]["valid_reward_mean"] == 1
    (usage,) = last["usage"]["graders"]
    assert (usage["train_prompt_tokens_mean"], usage["train_completion_tokens_count"]) == (9, 5 * 16)
    (errors,) = last["errors"]["graders"]
    assert errors["valid_model_grader_parse_error_count"] == 0


def test_model_without_score_counts_as_lowest(base: Path, tmp_path: Path) -> None:
    """Some replies that are no score are counted and told once; the job goes on."""
    folder = make_reinforcement(tmp_path / "job", base, grader={**JUDGE, "range": [-1, 1]}, n_epochs=2)
    replies = itertools.cycle([*[ModelReply('{"result": 1}')] * 3, ModelReply('{"result": 7}')])
    with judged(folder, lambda _: next(replies)):
        assert run_job(JobDirectory(folder)) == "succeeded", result(folder)
    assert [row["train_mean_reward"] for row in metrics(folder)] == [0.5, 0.5]
    assert metrics(folder)[0]["errors"]["graders"][0]["train_model_grader_parse_error_mean"] == 0.25
    warnings = [event["message"] for event in events(folder) if event["level"] == "warn"]
    assert [text for text in warnings if "judge" in text] == [
        "The grader 'judge' gave 4 of 16 answers no score, which counts as the lowest: tiny answered "
        "'{\"result\": 7}', and not a result from -1 to 1"
    ]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (ModelReply("fine"), "tiny answered 'fine', and not a result from 0 to 1 let the grader's input say"),
        (ModelReply('{"result": true}'), "and not a result from 0 to 1"),
        (ModelReply('{"result": 1e999}'), "and not a result from 0 to 1"),
        (ModelReply('{"result": NaN}'), "and not a result from 0 to 1"),
        (ModelReply("[" * 200_000), "and not a result from 0 to 1"),
        (ModelReply('{"result": "1"}\x1b[2J'), "␛"),
        (ModelReply(refusal="I will not"), "tiny refused: I will not"),
        (ModelReply(error="No such model: tiny"), "tiny did not answer: No such model: tiny"),
    ],
)
def test_model_that_mostly_gives_no_score_is_refused(reply: ModelReply, message: str) -> None:
    """Nothing is to be learnt from it; the error names grader, model and what to do."""
    replies = [ModelReply('{"result": 1}'), reply, reply]
    reward = RewardFunction(JUDGE, lambda _bodies, _check: replies)
    with pytest.raises(RewardError) as caught:
        reward.score([({"answer": "a"}, "x")] * 3)
    assert caught.value.message.startswith("the grader 'judge' gave 2 of 3 answers no score: ")
    assert message in f"{caught.value.message} {caught.value.hint}"


@needs_sandbox
@pytest.mark.parametrize(("divisor", "message"), [(1, "line 2: ZeroDivisionError"), (10_000, "")])
def test_code_scores_answers_where_the_server_allows_it(base: Path, tmp_path: Path, divisor: int, message: str) -> None:
    """A function that mostly fails ends the job with its error; events count them in the API's name."""
    grader = {**CODE, "source": CODE["source"].replace("item['n']", str(divisor))}
    folder = make_reinforcement(tmp_path / "job", base, grader=grader, n_epochs=1)
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    (folder / "spec.json").write_text(json.dumps({**spec, "allow_python_graders": True}), encoding="utf-8")
    assert run_job(JobDirectory(folder)) == ("failed" if message else "succeeded"), result(folder)
    if message:
        assert f"the grader 'code' gave 16 of 16 answers no score: {message}" in result(folder)["error"]["message"]
        return
    (errors,) = metrics(folder)[0]["errors"]["graders"]
    assert "train_python_grader_runtime_error_mean" in errors
    assert metrics(folder)[0]["train_mean_reward"] > 0


def test_trainer_without_server_ends_to_be_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for ever, has no result, and leaves no chats behind."""
    models = ServerModels(JobDirectory(tmp_path))
    monkeypatch.setattr(grader_chats, "MAX_ORPHANED_SECONDS", 0.0)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(SystemExit):
        models.ask([{"model": "tiny"}], lambda: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("grader", "answer", "code", "message"),
    [
        (None, "a", "grader_error", "reinforcement needs a grader"),
        ({"type": "python"}, "a", "grader_error", "method.reinforcement.grader.source"),
        (CODE, "a", "grader_error", "runs code, which this server does not allow start it with --allow-python-graders"),
        ({**JUDGE, "range": [1, 1]}, "a", "grader_error", "method.reinforcement.grader.range"),
        (formula("1 / (same - 1)"), "a", "grader_error", "its calculate_output has no value"),
        (formula("10 ** 64 ** 1.2"), "a", "grader_error", "its calculate_output has no value"),
        ({**LIKE, "reference": "{{item.other}}"}, "a", "invalid_training_file", "line 1: the grader reads item.other"),
        ({**LIKE, "input": "{{item.answer}}"}, "a" * 200_000, "grader_error", "a text is longer than graders compare"),
    ],
)
def test_graders_that_fail_fail_the_job(
    base: Path, tmp_path: Path, grader: dict[str, Any] | None, answer: str, code: str, message: str
) -> None:
    """The error names the reason, and no model is made."""
    folder = make_reinforcement(tmp_path / "job", base, grader=grader, answer=answer, n_epochs=1)
    assert run_job(JobDirectory(folder)) == "failed"
    error = result(folder)["error"]
    assert error["code"] == code, error
    assert message in error["message"]
    assert error["param"] == ("training_file" if code == "invalid_training_file" else "method.reinforcement.grader")
    assert not list((folder / "checkpoints").glob("*"))


def test_reinforcement_refuses_a_cluster(base: Path, tmp_path: Path) -> None:
    """Several processes of one machine are not used either, but are no error."""
    folder = with_workers(make_reinforcement(tmp_path / "job", base), engine="ray")
    assert run_job(JobDirectory(folder)) == "failed"
    assert "not on a Ray cluster" in result(folder)["error"]["message"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**chat("a", "b"), "answer": "b"}], "line 1: it is not a reinforcement row"),
        ([{**chat("a " * 400), "answer": "b"}], "are left beside the answer"),
    ],
)
def test_rows_that_cannot_be_prompts_are_named(
    base: Path, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    """Chat rows with an answer, and prompts that leave no room for one."""
    folder = make_reinforcement(tmp_path / "job", base)
    write_rows(tmp_path / "job.jsonl", rows)
    assert run_job(JobDirectory(folder)) == "failed"
    assert message in result(folder)["error"]["message"]


@pytest.mark.slow
def test_run_job_raises_reward(base: Path, tmp_path: Path) -> None:
    """More of the answers is right after some steps."""
    settings: dict[str, Any] = {"n_epochs": 16, "compute_multiplier": 2, "learning_rate": 0.02, "eval_interval": 16}
    folder = make_reinforcement(tmp_path / "job", base, answer="aaaa", max_completion_tokens=6, **settings)
    assert run_job(JobDirectory(folder)) == "succeeded"
    rewards = [row["train_mean_reward"] for row in metrics(folder)]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3]), rewards
