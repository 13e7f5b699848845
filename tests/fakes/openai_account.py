"""``python -m tests.fakes.openai_account``: a local OpenAI account of 40 fine-tunes that logs every request.

::

    with OpenAIAccount() as account:
        ...                                     # calls to account.base_url
        assert account.changes == []            # nothing at the provider was changed
        assert account.paid_twice() == []       # no question was answered, and so paid, twice

Everything of ``FaultEndpoint`` works here too: ``account.script("GET /files/{id}/content", Fault(then="cut"))``. What
the account holds is in ``account_contents.py``. After the days of its table no job is accepted and no model answers, by
the clock of ``time.time`` plus ``skew``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import signal
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from tests.fakes.account_contents import BASES, SUPPORT_DESK, Contents, chat_rows, identifier
from tests.fakes.scripted_server import RejectedRequest
from tests.faults.endpoint import ROUTES, FaultEndpoint

LAST_DAY_TO_CREATE = "2027-01-06"
MAX_JOBS_PER_PAGE, MAX_FILES_PER_PAGE, MAX_EVENTS_PER_PAGE = 25, 40, 50
"""A page is never longer, whatever ``limit`` says: the 40 jobs need two."""
TUNED_ACCURACY, BASE_ACCURACY = 92, 60
"""Percent of the questions of its task that a model answers as the data do."""
CHARACTERS_PER_TOKEN = 4
BATCH_STATUSES = ("validating", "in_progress", "finalizing", "completed")
READABLE_PURPOSES = ("fine-tune", "fine-tune-results", "batch", "batch_output")
"""Purposes whose content is served. Source: OpenAI Files API, which refuses to download ``assistants``, 2026-08-21."""


@dataclass(frozen=True)
class LoggedRequest:
    """One request that has arrived, whether or not it was executed."""

    method: str
    path: str
    """With the query."""
    body_sha256: str
    """Digest of the body; of JSON in a canonical form. Empty without a body."""
    idempotency_key: str = ""


@dataclass(frozen=True)
class PaidRequest:
    """One question that was answered, alone or in a batch, or one job that was created."""

    kind: str
    """``chat``, ``batch`` or ``job``."""
    model: str
    body_sha256: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def digest_of(body: bytes) -> str:
    """SHA-256 of a body; JSON of any spacing and order of keys has one digest."""
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(body).hexdigest() if body else ""


@dataclass
class AccountState:
    """What is added to the state of ``FaultEndpoint``."""

    log: list[LoggedRequest] = field(default_factory=list)
    paid: list[PaidRequest] = field(default_factory=list)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_reads: Counter[str] = field(default_factory=Counter)
    batch_statuses: tuple[str, ...] = BATCH_STATUSES
    """A batch's status each time it is read; the last one is repeated."""


class OpenAIAccount(AccountState, FaultEndpoint):
    """The server; a context manager that runs it in a thread on loopback."""

    routes: ClassVar[dict[str, str]] = ROUTES | {
        "POST /fine_tuning/jobs/{id}/pause": "pause_job",
        "POST /fine_tuning/jobs/{id}/resume": "resume_job",
        "DELETE /models/{id}": "delete_model",
        "POST /chat/completions": "chat",
        "POST /batches": "create_batch",
        "GET /batches": "list_batches",
        "GET /batches/{id}": "get_batch",
        "POST /batches/{id}/cancel": "cancel_batch",
    }

    def __init__(self, *, port: int = 0, log_file: Path | None = None, **quirks: Any) -> None:
        AccountState.__init__(self)
        FaultEndpoint.__init__(self, port=port, **quirks)
        self.account = Contents.build()
        self.files, self.contents, self.jobs = self.account.files, self.account.contents, self.account.jobs
        self.models = self.account.models
        self.log_file = log_file
        self._truth = Answers()

    # What tests ask about.

    @property
    def changes(self) -> list[LoggedRequest]:
        """Requests that change something at the account; questions do not."""
        return [one for one in self.log if one.method != "GET" and not one.path.endswith("/chat/completions")]

    def paid_twice(self) -> list[PaidRequest]:
        """What was paid more than once: the same question to the same model, or the same job."""
        counted = Counter((one.model, one.body_sha256) for one in self.paid)
        return [one for one in self.paid if counted[one.model, one.body_sha256] > 1]

    def state_digest(self) -> str:
        """A digest of jobs, models and files; files of batches are left out."""
        files = {key: file for key, file in self.files.items() if not str(file["purpose"]).startswith("batch")}
        digests = {key: hashlib.sha256(data).hexdigest() for key, data in self.contents.items() if key in files}
        state = [files, digests, self.jobs, self.models, self.account.events, self.account.checkpoints]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def record(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Log a request."""
        super().record(method, path, body, headers)
        entry = LoggedRequest(method, path, digest_of(body), headers.get("idempotency-key", ""))
        with self.lock:
            self.log.append(entry)
            if self.log_file is not None:
                with self.log_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(entry)) + "\n")

    @property
    def today(self) -> str:
        """The day in UTC, ISO 8601."""
        return datetime.fromtimestamp(self.now(), UTC).date().isoformat()

    # Files.

    def add_file(self, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /files``."""
        filename, data = fields["file"]
        file = self.store(filename, data)
        file["purpose"] = fields.get("purpose", "fine-tune")
        return file

    def list_files(self, *, query: dict[str, str] | None = None, **_: Any) -> dict[str, Any]:
        """``GET /files``."""
        query = query or {}
        files = [file for file in self.files.values() if query.get("purpose") in (None, file["purpose"])]
        files.sort(key=lambda file: file["created_at"] or 0, reverse=query.get("order", "desc") == "desc")
        return page_of(files, query, at_most=MAX_FILES_PER_PAGE)

    def get_file(self, file_id: str, **_: Any) -> dict[str, Any]:
        """``GET /files/{id}``."""
        if file_id not in self.files:
            raise RejectedRequest(404, f"No such File object: {file_id}")
        return self.files[file_id]

    def file_content(self, file_id: str, **_: Any) -> bytes:
        """``GET /files/{id}/content``."""
        purpose = self.get_file(file_id)["purpose"]
        if purpose not in READABLE_PURPOSES:
            raise RejectedRequest(400, f"Not allowed to download files of purpose: {purpose}")
        return super().file_content(file_id)

    # Jobs.

    def create_job(self, *, fields: dict[str, Any], headers: dict[str, str], **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs``: the call that is paid."""
        if self.today > LAST_DAY_TO_CREATE:
            message = (
                "Fine-tuning is not available for this organization. See #update-to-openais-self-serve-fine-tuning"
            )
            raise RejectedRequest(403, message, "training_not_available")
        if self._is_shut_down(str(fields["model"])):
            raise RejectedRequest(
                400, f"Model {fields['model']} is not available for fine-tuning", "model_not_available"
            )
        job = super().create_job(fields=fields, headers=headers)
        self.paid.append(PaidRequest("job", job["model"], digest_of(json.dumps(fields).encode())))
        return job

    def list_jobs(self, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs``, newest first."""
        jobs = sorted(self.jobs.values(), key=lambda job: job["created_at"] or 0, reverse=True)
        for name, value in query.items():
            if name.startswith("metadata["):
                jobs = [job for job in jobs if (job["metadata"] or {}).get(name[9:-1]) == value]
        return page_of([_public(job) for job in jobs], query, at_most=MAX_JOBS_PER_PAGE, ids=False)

    def get_job(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}``: a job that was created by a call advances each time it is read."""
        if "reads" in self.jobs.get(job_id, {}) or job_id not in self.jobs:
            return _public(super().get_job(job_id))
        return self.jobs[job_id]

    def cancel_job(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs/{id}/cancel``."""
        return self._set_status(job_id, "cancelled")

    def pause_job(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs/{id}/pause``."""
        return self._set_status(job_id, "paused")

    def resume_job(self, job_id: str, **_: Any) -> dict[str, Any]:
        """``POST /fine_tuning/jobs/{id}/resume``."""
        return self._set_status(job_id, "running")

    def _set_status(self, job_id: str, status: str) -> dict[str, Any]:
        job = self.jobs[self.get_job(job_id)["id"]]
        job["status"] = status
        return _public(job)

    def list_events(self, job_id: str, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}/events``, newest first."""
        if job_id not in self.account.events:
            return super().list_events(job_id, query=query)
        return page_of(self.account.events[job_id], query, at_most=MAX_EVENTS_PER_PAGE, ids=False)

    def list_checkpoints(self, job_id: str, *, query: dict[str, str] | None = None, **_: Any) -> dict[str, Any]:
        """``GET /fine_tuning/jobs/{id}/checkpoints``."""
        self.get_job(job_id)
        return page_of(self.account.checkpoints.get(job_id, []), query or {}, at_most=10)

    # Models.

    def _is_shut_down(self, model: str) -> bool:
        """Whether the base of a model has been shut down; of an unknown base it has not."""
        parts = model.split(":")
        day = BASES.get(parts[1] if parts[0] == "ft" and len(parts) > 1 else model)
        return day is not None and day <= self.today

    def list_models(self, **_: Any) -> dict[str, Any]:
        """``GET /models``: without models that were shut down, except those that the table calls stale."""
        gone_before = "2026-12-01"
        listed = [
            model
            for name, model in self.models.items()
            if not self._is_shut_down(name) or (name.startswith("ft:") and (_shutdown(name) or "") < gone_before)
        ]
        return {"object": "list", "data": listed}

    def get_model(self, model_id: str, **_: Any) -> dict[str, Any]:
        """``GET /models/{id}``."""
        listed = {model["id"]: model for model in self.list_models()["data"]}
        tuned = {job["fine_tuned_model"] for job in self.jobs.values() if "reads" in job}
        if model_id in tuned and not self._is_shut_down(model_id):
            return {"id": model_id, "object": "model", "created": self.now(), "owned_by": "acme"}
        if model_id not in listed:
            raise RejectedRequest(404, f"The model '{model_id}' does not exist", "model_not_found")
        return dict(listed[model_id])

    def delete_model(self, model_id: str, **_: Any) -> dict[str, Any]:
        """``DELETE /models/{id}``."""
        self.get_model(model_id)
        del self.models[model_id]
        return {"id": model_id, "object": "model", "deleted": True}

    # Answers.

    def chat(self, *, fields: dict[str, Any], **_: Any) -> Any:
        """``POST /chat/completions``: the answer depends on the request alone."""
        completion = self._complete("chat", fields)
        if not fields.get("stream"):
            return completion
        return b"".join(f"data: {line}\n\n".encode() for line in [*_chunks(completion), "[DONE]"])

    def _complete(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        model = fields["model"]
        if self._is_shut_down(model):
            message = f"The model '{model}' has been deprecated and shut down."
            raise RejectedRequest(404, message, "model_not_found")
        self.get_model(model)
        body_sha256 = digest_of(json.dumps(fields).encode())
        count = fields.get("n") or 1
        task = self.account.task_of.get(model, "")
        choices = [self._truth.choice(fields, task, sample) for sample in range(count)]
        prompt = sum(len(json.dumps(message)) for message in fields["messages"]) // CHARACTERS_PER_TOKEN + 1
        answer = sum(max(1, len(json.dumps(one["message"])) // CHARACTERS_PER_TOKEN) for one in choices)
        self.paid.append(PaidRequest(kind, model, body_sha256, prompt, answer))
        return {
            "id": f"chatcmpl-{body_sha256[:24]}",
            "object": "chat.completion",
            "created": self.now(),
            "model": model,
            "choices": [{**one, "index": index} for index, one in enumerate(choices)],
            "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
            "system_fingerprint": "fp_account",
        }

    # Batches.

    def create_batch(self, *, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``POST /batches``: the answers are there, and paid, when the batch is completed."""
        file = self.get_file(fields["input_file_id"])
        if file["purpose"] != "batch" or fields.get("endpoint") != "/v1/chat/completions":
            raise RejectedRequest(400, "invalid input_file_id or endpoint", "invalid_request")
        now = self.now()
        batch_id = f"batch_{identifier('batch', str(len(self.batches)))}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": fields["endpoint"],
            "errors": None,
            "input_file_id": file["id"],
            "completion_window": fields.get("completion_window", "24h"),
            "status": self.batch_statuses[0],
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + 86_400,
            **dict.fromkeys(("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at")),
            **dict.fromkeys(("cancelling_at", "cancelled_at")),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": fields.get("metadata"),
        }
        return self.batches[batch_id]

    def list_batches(self, *, query: dict[str, str], **_: Any) -> dict[str, Any]:
        """``GET /batches``, newest first."""
        return page_of(list(self.batches.values())[::-1], query, at_most=20)

    def get_batch(self, batch_id: str, **_: Any) -> dict[str, Any]:
        """``GET /batches/{id}``: each time a batch is read, its status advances."""
        if batch_id not in self.batches:
            raise RejectedRequest(404, f"No batch found with id '{batch_id}'.")
        batch = self.batches[batch_id]
        if batch["status"] in ("completed", "failed", "cancelled", "expired"):
            return batch
        self.batch_reads[batch_id] += 1
        batch["status"] = self.batch_statuses[min(self.batch_reads[batch_id], len(self.batch_statuses) - 1)]
        if batch["status"] == "completed":
            self._run_batch(batch)
        return batch

    def cancel_batch(self, batch_id: str, **_: Any) -> dict[str, Any]:
        """``POST /batches/{id}/cancel``."""
        self.get_batch(batch_id)
        self.batches[batch_id] |= {"status": "cancelled", "cancelled_at": self.now()}
        return self.batches[batch_id]

    def _run_batch(self, batch: dict[str, Any]) -> None:
        """Answer the lines of a batch, in another order than they came; refused lines go to the error file."""
        lines = [json.loads(line) for line in self.contents[batch["input_file_id"]].splitlines() if line.strip()]
        answered, refused = [], []
        for line in lines[::-1]:
            result = {"id": f"batch_req_{identifier(batch['id'], line['custom_id'])}", "custom_id": line["custom_id"]}
            try:
                body = self._complete("batch", line["body"])
                answered.append(
                    result | {"response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}
                )
            except RejectedRequest as error:
                body = {"error": {"message": error.message, "code": error.code}}
                refused.append(result | {"response": {"status_code": error.status, "body": body}, "error": None})
        for name, results in (("output_file_id", answered), ("error_file_id", refused)):
            if results:
                data = "".join(json.dumps(result) + "\n" for result in results).encode()
                file = self.store(f"{batch['id']}_{name[:-8]}.jsonl", data)
                file["purpose"] = "batch_output"
                batch[name] = file["id"]
        batch["request_counts"] = {"total": len(lines), "completed": len(answered), "failed": len(refused)}
        batch["completed_at"] = self.now()


class Answers:
    """What models answer: as the data of their task, or with another answer of it, always the same for one request."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self._of_task: dict[str, list[dict[str, Any]]] = {}
        for task in ("support", "faq", "tools"):
            self._learn(task, chat_rows(task))
        for name in ("validation", "test"):
            lines = (SUPPORT_DESK / f"{name}.jsonl").read_text("utf-8").splitlines()
            self._learn("support", [json.loads(line) for line in lines])

    def _learn(self, task: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._known[_last_text(row["messages"][:-1])] = row["messages"][-1]
            self._of_task.setdefault(task, []).append(row["messages"][-1])

    def choice(self, fields: dict[str, Any], task: str, sample: int) -> dict[str, Any]:
        """One choice of a completion."""
        greedy = not fields.get("temperature", 1)
        noise = "" if greedy else f"{fields.get('seed')}/{sample}"
        question = _last_text(fields["messages"])
        chance = int(identifier(fields["model"], question, noise, length=8), 16)
        right, others = self._known.get(question), self._of_task.get(task or "support", [])
        is_right = right is not None and chance % 100 < (TUNED_ACCURACY if task else BASE_ACCURACY)
        message = right if is_right and right else others[chance % len(others)]
        if message.get("tool_calls") and not fields.get("tools"):
            message = {"role": "assistant", "content": "I would look up the price."}
        limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
        return _choice(message, fields, limit)


def _choice(message: dict[str, Any], fields: dict[str, Any], limit: int | None) -> dict[str, Any]:
    text = message.get("content")
    pieces = _pieces(text or "")
    is_cut = limit is not None and len(pieces) > limit
    pieces = pieces[:limit]
    reply = {"role": "assistant", "content": None if text is None else "".join(pieces), "refusal": None}
    if message.get("tool_calls"):
        reply["tool_calls"] = message["tool_calls"]
    reason = "tool_calls" if message.get("tool_calls") else "length" if is_cut else "stop"
    logprobs = {"content": [_logprob(piece, fields) for piece in pieces], "refusal": None}
    return {"finish_reason": reason, "message": reply, "logprobs": logprobs if fields.get("logprobs") else None}


def _logprob(piece: str, fields: dict[str, Any]) -> dict[str, Any]:
    value = -int(identifier(fields["model"], piece, length=6), 16) / 0xFFFFFF
    own: dict[str, Any] = {"token": piece, "logprob": round(value, 6), "bytes": list(piece.encode())}
    others = [{"token": f"{piece}{rank}", "logprob": round(value - rank, 6), "bytes": None} for rank in range(1, 20)]
    return own | {"top_logprobs": [dict(own), *others][: fields.get("top_logprobs") or 0]}


def _pieces(text: str) -> list[str]:
    """A text in words, each with the space before it."""
    words = text.split(" ")
    return [word if at == 0 else f" {word}" for at, word in enumerate(words)] if text else []


def _chunks(completion: dict[str, Any]) -> list[str]:
    """The lines of a stream."""
    head = {name: completion[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    lines = []
    for choice in completion["choices"]:
        pieces: list[dict[str, Any]] = [{"content": piece} for piece in _pieces(choice["message"]["content"] or "")]
        calls = choice["message"].get("tool_calls")
        pieces += [{"tool_calls": [{**call, "index": at} for at, call in enumerate(calls)]}] if calls else []
        for delta in [{"role": "assistant", "content": ""}, *pieces]:
            lines.append({**head, "choices": [{"index": choice["index"], "delta": delta, "finish_reason": None}]})
        end = {"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}
        lines.append({**head, "choices": [end]})
    return [json.dumps(line) for line in lines]


def _last_text(messages: list[dict[str, Any]]) -> str:
    """The text of the last message, as one string."""
    content = messages[-1].get("content") if messages else ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _shutdown(model: str) -> str | None:
    return BASES.get(model.split(":")[1])


def _public(job: dict[str, Any]) -> dict[str, Any]:
    """A job without what only the server knows."""
    return {name: value for name, value in job.items() if name not in ("reads", "created", "key")}


def page_of(items: list[dict[str, Any]], query: dict[str, str], *, at_most: int, ids: bool = True) -> dict[str, Any]:
    """One page of a list."""
    after, limit = query.get("after"), min(int(query.get("limit", 20)), at_most)
    start = next((index + 1 for index, item in enumerate(items) if item["id"] == after), 0) if after else 0
    data = items[start : start + limit]
    listed: dict[str, Any] = {"object": "list", "data": data, "has_more": start + limit < len(items)}
    if ids:
        listed |= {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return listed


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--today", metavar="DATE", help="the day at this account, ISO 8601; the real one by default")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write one line of JSON per request to this file")
    parser.add_argument("--key", default=None, help="the only key that is accepted; any by default")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    skew = datetime.fromisoformat(f"{options.today}T12:00:00+00:00").timestamp() - time.time() if options.today else 0.0
    with OpenAIAccount(port=options.port, log_file=options.log, key=options.key, skew=skew) as account:
        print(f"export OPENAI_BASE_URL={account.base_url} OPENAI_API_KEY={options.key or 'sk-local'}", flush=True)  # noqa: T201
        stop.wait()


if __name__ == "__main__":
    main()
