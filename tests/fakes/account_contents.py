"""What the account of ``tests.fakes.openai_account`` holds: 40 jobs of all ages and states, their files and models.

Nothing is random: ids are digests of what they name, and times are dates of the table.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUPPORT_DESK = Path(__file__).parents[2] / "data" / "support_desk"
DAY_SECONDS = 86_400
LAST_SHUTDOWN = "2027-01-14"
BASES: dict[str, str | None] = {
    "gpt-4.1-2025-04-14": LAST_SHUTDOWN,
    "gpt-4.1-mini-2025-04-14": LAST_SHUTDOWN,
    "gpt-4o-2024-08-06": LAST_SHUTDOWN,
    "gpt-4o-mini-2024-07-18": LAST_SHUTDOWN,
    "gpt-5.4-mini-2026-03-17": None,
    "gpt-6-luna": None,
    "text-embedding-3-small": None,
    "gpt-4.1-nano-2025-04-14": "2026-10-23",
    "o4-mini-2025-04-16": "2026-10-23",
    "gpt-3.5-turbo-0125": "2026-10-23",
    "gpt-3.5-turbo-1106": "2026-10-23",
    "gpt-3.5-turbo-0613": "2026-10-23",
    "davinci-002": "2026-10-23",
    "babbage-002": "2026-10-23",
}
"""Base model → day on which it and the models tuned from it stop answering; ``None`` if none is announced."""


@dataclass(frozen=True)
class Tune:
    """One job of the account; each word of ``oddities`` is explained in ``Contents``."""

    base: str
    suffix: str
    day: str
    """Day of creation, ISO 8601."""
    task: str
    status: str = "succeeded"
    oddities: str = ""

    @property
    def id(self) -> str:
        """The job's id."""
        return f"ftjob-{identifier(self.base, self.suffix, self.day)}"

    @property
    def created_at(self) -> int:
        """Noon of the day, in UTC Unix seconds."""
        return int(datetime.fromisoformat(f"{self.day}T12:00:00+00:00").timestamp())

    @property
    def model(self) -> str:
        """The name that its model has or would have."""
        return f"ft:{OMNI_MINI if self.base == 'tuned' else self.base}:acme:{self.suffix}:{self.id[6:14]}"


def identifier(*parts: str, length: int = 24) -> str:
    """A stable id of letters and digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:length]


MINI, NANO, FULL = "gpt-4.1-mini-2025-04-14", "gpt-4.1-nano-2025-04-14", "gpt-4.1-2025-04-14"
OMNI, OMNI_MINI, TURBO = "gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "gpt-3.5-turbo-0125"

TUNES = (
    Tune(MINI, "support-triage", "2026-11-20", "support", "running"),
    Tune(OMNI_MINI, "support-triage-v3", "2026-11-19", "support", "queued"),
    Tune(FULL, "contracts", "2026-11-18", "faq", "validating_files"),
    Tune(MINI, "invoices", "2026-11-12", "faq", "paused"),
    Tune(OMNI, "tone", "2026-11-10", "faq", "pending_review"),
    Tune(OMNI_MINI, "support-triage", "2026-11-05", "support", oddities="checkpoints validation many-events metadata"),
    Tune("gpt-5.4-mini-2026-03-17", "pilot", "2026-10-31", "faq", oddities="extra-keys"),
    Tune(MINI, "support-triage", "2026-10-28", "support", oddities="checkpoints validation"),
    Tune(OMNI_MINI, "faq", "2026-10-20", "faq", oddities="file-deleted"),
    Tune(FULL, "contracts", "2026-10-12", "pairs", oddities="checkpoints dpo"),
    Tune(OMNI_MINI, "tools", "2026-10-02", "tools", oddities="checkpoints"),
    Tune(MINI, "faq", "2026-09-25", "faq", "failed"),
    Tune(MINI, "faq", "2026-09-24", "faq", "cancelled", "tokens"),
    Tune(OMNI, "tone", "2026-09-10", "faq", oddities="error-nulls"),
    Tune(OMNI_MINI, "", "2026-08-30", "support", oddities="validation"),
    Tune(MINI, "shared", "2026-08-12", "support", oddities="file-foreign"),
    Tune(NANO, "router", "2026-07-15", "support", oddities="stale"),
    Tune(NANO, "router", "2026-07-14", "support", "failed", "file-deleted"),
    Tune("o4-mini-2025-04-16", "grader", "2026-06-30", "graded", oddities="reinforcement"),
    Tune(OMNI_MINI, "support", "2026-06-18", "support", oddities="model-deleted"),
    Tune("tuned", "second-pass", "2026-11-08", "support", oddities="checkpoints"),
    Tune(OMNI, "nulls", "2026-05-20", "faq", oddities="nulls"),
    Tune(OMNI_MINI, "unnamed", "2026-05-08", "faq", oddities="no-name"),
    Tune(FULL, "summaries", "2026-04-22", "faq", oddities="no-tokens validation validation-deleted"),
    Tune(OMNI_MINI, "stopped", "2026-03-30", "faq", "cancelled"),
    Tune(MINI, "results", "2026-02-14", "faq", oddities="results-deleted"),
    Tune(OMNI, "vision", "2026-01-09", "faq", "failed", "file-deleted"),
    Tune(OMNI_MINI, "again", "2025-11-11", "support", oddities="shared-file"),
    Tune(OMNI_MINI, "letters", "2025-09-03", "faq"),
    Tune(MINI, "gaps", "2025-07-22", "faq", oddities="checkpoints checkpoint-nulls"),
    Tune(OMNI, "broken-file", "2025-05-05", "faq", oddities="content-gone"),
    Tune(OMNI_MINI, "winter", "2025-02-17", "faq", "cancelled", "file-deleted"),
    Tune(OMNI_MINI, "first", "2024-12-01", "faq", oddities="file-deleted results-deleted"),
    Tune(TURBO, "chatbot", "2024-10-10", "faq"),
    Tune(TURBO, "chatbot", "2024-06-06", "faq", oddities="file-deleted stale"),
    Tune(TURBO, "chatbot", "2024-04-02", "faq", "failed"),
    Tune("gpt-3.5-turbo-1106", "chatbot", "2024-01-15", "faq"),
    Tune("gpt-3.5-turbo-0613", "chatbot", "2023-10-11", "faq", oddities="file-deleted"),
    Tune("davinci-002", "names", "2023-09-20", "completions"),
    Tune("babbage-002", "names", "2023-09-12", "completions", oddities="no-created"),
)
"""The jobs; they are listed by their day, newest first."""
MAIN = next(tune for tune in TUNES if "many-events" in tune.oddities)
MAIN_MODEL = MAIN.model
"""A model that answers, with training and validation file, checkpoints and results."""

MODELS_WITHOUT_JOB = (
    "ft:gpt-4o-mini-2024-07-18:acme:imported:0a1b2c3d",
    "ft:gpt-4.1-mini-2025-04-14:acme-labs:forecast:4e5f6a7b",
    "ft:gpt-4.1-mini-2025-04-14:acme-labs:forecast:4e5f6a7b:ckpt-step-90",
    "curie:ft-acme-2023-02-01-10-00-00",
)
"""Models whose jobs the key cannot see, one of them with a name of before 2023-08."""

OTHER_FILES: tuple[dict[str, Any], ...] = (
    {"filename": "other-team-train.jsonl", "purpose": "fine-tune"},
    {"filename": "other-team-train.jsonl", "purpose": "fine-tune", "status": "error", "status_details": "line 3"},
    {"filename": "../../outside.jsonl", "purpose": "fine-tune"},
    {"filename": "r\u00e9sum\u00e9 \u2192 \x1b[31mred.jsonl", "purpose": "fine-tune", "bytes": None},
    {"filename": "", "purpose": "fine-tune", "created_at": None},
    {"filename": "handbook.pdf", "purpose": "assistants"},
    {"filename": "photo.png", "purpose": "vision"},
    {"filename": "notes.txt", "purpose": "user_data", "expires_at": 1_798_000_000},
    {"filename": "batch_input.jsonl", "purpose": "batch"},
    {"filename": "batch_output.jsonl", "purpose": "batch_output"},
    {"filename": "eval.jsonl", "purpose": "evals"},
    {"filename": "future.bin", "purpose": "purpose-of-tomorrow", "status": None},
)
"""Files that no job of the account names: other teams', other purposes, names that a file system must not see."""


def chat_rows(task: str) -> list[dict[str, Any]]:
    """The rows of a training file, by its task."""
    if task == "support":
        return [json.loads(line) for line in (SUPPORT_DESK / "train.jsonl").read_text("utf-8").splitlines()]
    rows = []
    for number in range(12):
        question, answer = (
            f"What does plan {number} cost a month?",
            f"Plan {number} costs {number * 7 + 5} euros a month.",
        )
        user = {"role": "user", "content": question}
        if task == "pairs":
            worse = [{"role": "assistant", "content": "It depends."}]
            better = [{"role": "assistant", "content": answer}]
            rows.append({"input": {"messages": [user]}, "preferred_output": better, "non_preferred_output": worse})
        elif task == "graded":
            rows.append({"messages": [user], "reference_answer": answer})
        elif task == "completions":
            rows.append({"prompt": f"{question}\n", "completion": f" {answer}"})
        elif task == "tools":
            call = {"name": "get_price", "arguments": json.dumps({"plan": number})}
            calls = [{"id": f"call_{number}", "type": "function", "function": call}]
            asked = {"role": "user", "content": f"Look up the price of plan {number}."}
            rows.append({"messages": [asked, {"role": "assistant", "tool_calls": calls}], "tools": [PRICE_TOOL]})
        else:
            rows.append({"messages": [user, {"role": "assistant", "content": answer}]})
    return rows


PRICE_TOOL = {
    "type": "function",
    "function": {
        "name": "get_price",
        "description": "Price of a plan",
        "parameters": {"type": "object", "properties": {"plan": {"type": "integer"}}, "required": ["plan"]},
    },
}


def lines_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a JSONL file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@dataclass
class Contents:
    """Files, jobs, events, checkpoints and models, built from the table.

    ``file-deleted``, ``validation-deleted``, ``results-deleted``: the job still names the file. ``file-foreign``: the
    file belongs to another project, which the key cannot see. ``content-gone``: the file is listed, and its content is
    not served. ``model-deleted``: the job names a model that does not exist. ``stale``: the model is listed although
    its base was shut down. ``no-name``: succeeded without a model. ``nulls``: every field that can be null is null.
    """

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checkpoints: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    task_of: dict[str, str] = field(default_factory=dict)
    """Model → task whose answers it has learned."""

    @classmethod
    def build(cls) -> Contents:
        """The account as it is before the first request."""
        own = cls()
        for base in BASES:
            own._add_model(base, "2025-06-01", owner="system", shutdown_date=BASES[base])
        for tune in sorted(TUNES, key=lambda tune: tune.day, reverse=True):
            own._add_tune(tune)
        for number, name in enumerate(MODELS_WITHOUT_JOB):
            own._add_model(name, "2025-03-01", owner="acme", task="faq")
            if number == 1:
                own.models[name] |= {"created": None, "shutdown_date": "soon"}
        for number, given in enumerate(OTHER_FILES):
            fields = {key: value for key, value in given.items() if key != "filename"}
            own._add_file(f"other-{number}", "2026-09-01", given["filename"], b"{}\n" * (number + 1), **fields)
        return own

    def _add_file(self, key: str, day: str, filename: str, data: bytes, *, gone: bool = False, **given: Any) -> str:
        file_id = f"file-{identifier('file', key, length=22)}"
        if gone:
            return file_id
        created = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
        self.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "created_at": created,
            "filename": filename,
            "purpose": "fine-tune",
            "status": "processed",
            "status_details": None,
            "expires_at": None,
            **given,
        }
        self.contents[file_id] = data
        return file_id

    def _add_model(
        self, name: str, day: str, *, owner: str, task: str = "", shutdown_date: str | None = None, **given: Any
    ) -> None:
        created = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
        self.models[name] = {"id": name, "object": "model", "created": created, "owned_by": owner, **given}
        if owner == "system" or shutdown_date:
            self.models[name]["shutdown_date"] = shutdown_date
        if task:
            self.task_of[name] = task

    def _add_tune(self, tune: Tune) -> None:
        oddities = tune.oddities.split()
        rows = chat_rows(tune.task)
        data = lines_of(rows)
        shared = "shared-file" in oddities
        missing = "file-deleted" in oddities or "file-foreign" in oddities
        name = f"{tune.suffix or 'train'}-{tune.day}.jsonl"
        training = self._add_file(MAIN.id if shared else tune.id, tune.day, name, data, gone=missing or shared)
        if "content-gone" in oddities:
            del self.contents[training]
        validation = None
        if "validation" in oddities:
            rows_held_out = (SUPPORT_DESK / "validation.jsonl").read_bytes() if tune.task == "support" else data
            gone = "validation-deleted" in oddities
            validation = self._add_file(f"{tune.id}-v", tune.day, f"validation-{name}", rows_held_out, gone=gone)
        job = self._job(tune, training, validation, len(rows))
        self.jobs[tune.id] = job
        self.events[tune.id] = list(_events(tune, job["fine_tuned_model"]))
        self.checkpoints[tune.id] = list(_checkpoints(tune))
        model = job["fine_tuned_model"]
        shutdown = BASES[OMNI_MINI if tune.base == "tuned" else tune.base]
        is_gone = shutdown is not None and shutdown < LAST_SHUTDOWN and "stale" not in oddities
        if model and "model-deleted" not in oddities and not is_gone:
            said = shutdown if tune.created_at % 7 < 2 or tune is MAIN else None
            for one in (model, *(point["fine_tuned_model_checkpoint"] for point in self.checkpoints[tune.id])):
                self._add_model(one, tune.day, owner="acme", task=tune.task, shutdown_date=said)

    def _job(self, tune: Tune, training: str, validation: str | None, rows: int) -> dict[str, Any]:
        oddities, has_ended = tune.oddities.split(), tune.status in ("succeeded", "failed", "cancelled")
        is_done = tune.status == "succeeded"
        results = [
            self._add_file(
                f"{tune.id}-r", tune.day, "step_metrics.csv", _results(), gone="results-deleted" in oddities,
                purpose="fine-tune-results",
            )
        ]  # fmt: skip
        epochs = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
        kind = next((kind for kind in ("dpo", "reinforcement") if kind in oddities), "supervised")
        job: dict[str, Any] = {
            "id": tune.id,
            "object": "fine_tuning.job",
            "created_at": tune.created_at,
            "error": dict.fromkeys(("code", "message", "param")) if is_done or "error-nulls" in oddities else None,
            "estimated_finish": None,
            "fine_tuned_model": tune.model if is_done and "no-name" not in oddities else None,
            "finished_at": tune.created_at + 3600 if has_ended else None,
            "hyperparameters": epochs,
            "integrations": [],
            "metadata": None,
            "method": {"type": kind, kind: {"hyperparameters": epochs}},
            "model": MAIN_MODEL if tune.base == "tuned" else tune.base,
            "organization_id": "org-acme",
            "result_files": results if is_done else [],
            "seed": 42,
            "status": tune.status,
            "trained_tokens": rows * 60 * 3
            if (is_done and "no-tokens" not in oddities) or "tokens" in oddities
            else None,
            "training_file": training,
            "user_provided_suffix": tune.suffix or None,
            "validation_file": validation,
        }
        if tune.status == "failed":
            job["error"] = {
                "code": "invalid_training_file",
                "message": "The job failed due to an invalid training file. Example 3 is missing key 'messages'.",
                "param": "training_file",
            }
        if "metadata" in oddities:
            job["metadata"] = {"team": "support", "ftpipe_run": "run-0123456789ab"}
        if "extra-keys" in oddities:
            job |= {"shared_with_openai": True, "eval_id": "eval_1", "reserved": {"deep": [1, None]}}
        if "no-created" in oddities:
            job |= {"created_at": None, "finished_at": None}
        if "nulls" in oddities:
            keep = ("id", "object", "status", "model", "fine_tuned_model", "training_file", "created_at")
            job = {name: value if name in keep else None for name, value in job.items()}
        return job


def _results() -> bytes:
    """The metrics of a job, as OpenAI serves them: CSV in base64."""
    text = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
    text += "".join(f"{step},{2 / (step + 1):.4f},{0.5 + step / 20:.4f},,\n" for step in range(1, 7))
    return base64.b64encode(text.encode())


def _events(tune: Tune, model: str | None) -> Iterator[dict[str, Any]]:
    """Events, newest first as the API lists them."""
    steps = 60 if "many-events" in tune.oddities else 6 if tune.status in ("succeeded", "running", "paused") else 0
    texts: list[tuple[str, str, dict[str, Any]]] = [("message", "Created fine-tuning job", {})]
    texts.append(("message", "Validating training file", {}))
    for step in range(1, steps + 1):
        data = {"step": step, "total_steps": steps, "train_loss": round(2 / (step + 1), 4)}
        data |= {"train_mean_token_accuracy": 0.5 + step / (2 * steps)}
        texts.append(("metrics", f"Step {step}/{steps}: training loss={data['train_loss']}", data))
    if model:
        texts.append(("message", f"New fine-tuned model created: {model}", {}))
    if tune.status == "failed":
        texts.append(("message", "The job failed due to an invalid training file.", {}))
    for number in range(len(texts) - 1, -1, -1):
        kind, message, data = texts[number]
        yield {
            "id": f"ftevent-{identifier(tune.id, str(number))}",
            "object": "fine_tuning.job.event",
            "created_at": tune.created_at + number * 10,
            "level": "error" if tune.status == "failed" and number == len(texts) - 1 else "info",
            "type": kind,
            "message": message,
            "data": data,
        }


def _checkpoints(tune: Tune) -> Iterator[dict[str, Any]]:
    """The last steps of two epochs before the end, newest first."""
    if "checkpoints" not in tune.oddities.split():
        return
    has_gaps = "checkpoint-nulls" in tune.oddities
    for step in (4, 2):
        yield {
            "id": f"ftckpt_{identifier(tune.id, str(step))}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": tune.created_at + step * 300,
            "fine_tuned_model_checkpoint": f"{tune.model}:ckpt-step-{step}",
            "step_number": step,
            "metrics": None if has_gaps else {"step": step, "train_loss": 1 / step, "valid_loss": None},
            "fine_tuning_job_id": tune.id,
        }
