"""Random requests to every route: valid bodies with broken parts, structures of any depth, odd bytes and forms."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.testclient import TestClient

from tests.server.conftest import create_job, upload

BASES = ("smollm2-135m-instruct", "gpt-4o-mini", "ft:gpt-4o-mini:local::none", "org/name", "no-such-model")
DEPTHS = (1, 3, 30, 99, 101, 255, 900, 1023, 5000)
ODD_TEXTS = (
    "", " ", "\x00", "a\x00b", "../../etc/passwd", "/etc/passwd", "%00", "%2e%2e%2f", "\ud800", "é" * 50, "x" * 5000,
    "{{" + " " * 500, "{{item.a}}" * 50, "[" * 8000, '{"a":' * 2000, "[" * 90 + "]" * 90, "null", "NaN", "1e999",
    "9" * 5000, "-1", "'; DROP TABLE jobs; --", "\u202e\u2066", "ftjob-" + "a" * 300, "file:///etc/passwd",
)  # fmt: skip
ODD_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, 1e308, -1e-308, 0.1)
ODD_SCHEMAS: tuple[Any, ...] = (
    {"$ref": "#"}, {"$ref": "http://127.0.0.1:9/x"}, {"$ref": 5}, {"$defs": 5}, {"$defs": {"a": 1}}, {"type": 5},
    {"pattern": "^(a+)+$"}, {"pattern": "["}, {"enum": []}, {"x-guidance": {"lazy": True}}, {"anyOf": 1},
    {"$id": "http://["}, {"properties": {"a": {"$ref": "#/$defs/a"}}}, {"allOf": [{"$ref": "#"}]}, {"required": [{}]},
)  # fmt: skip
KEYS = ("model", "messages", "tools", "function", "type", "name", "metadata", "grader", "item", "a", "", "$ref", "\x00")

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM_TOOL = {
    "type": "custom",
    "custom": {"name": "run", "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9]+"}}},
}
CUSTOM_CALL = {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "1"}}
CHECK = {
    "type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}", "reference": "{{item.a}}"
}  # fmt: skip
SIMILARITY = {**CHECK, "type": "text_similarity", "evaluation_metric": "gleu"}
del SIMILARITY["operation"]
GRADERS = (
    CHECK,
    SIMILARITY,
    {"type": "multi", "name": "m", "graders": {"a": CHECK, "b": SIMILARITY}, "calculate_output": "a + b"},
)
CHATS: tuple[dict[str, Any], ...] = (
    {"model": BASES[0], "messages": [{"role": "user", "content": "json"}], "max_tokens": 2},
    {
        "model": BASES[0],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 2,
    },
    {
        "model": BASES[0],
        "messages": [{"role": "user", "content": "json"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "logit_bias": {"5": 10},
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "seed": 1,
        "stop": ["x"],
        "store": True,
        "metadata": {"a": "b"},
        "max_tokens": 2,
    },
    {
        "model": BASES[0],
        "messages": [
            {"role": "user", "content": "x", "name": "n"},
            {"role": "assistant", "content": None, "tool_calls": [CUSTOM_CALL]},
            {"role": "tool", "tool_call_id": "c2", "content": "1"},
        ],
        "tools": [TOOL, CUSTOM_TOOL],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "run"}}]},
        },
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"a": 1},
        "max_tokens": 2,
    },
    {
        "model": BASES[0],
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        "functions": [TOOL["function"]],
        "function_call": {"name": "f"},
        "max_tokens": 2,
    },
)
COMPLETIONS: tuple[dict[str, Any], ...] = (
    {"model": BASES[0], "prompt": "x", "max_tokens": 2},
    {"model": BASES[0], "prompt": [[1, 2], [3]], "max_tokens": 0, "echo": True, "logprobs": 1, "n": 2, "best_of": 3},
    {"model": BASES[0], "prompt": ["x"], "stream": True, "stream_options": {"include_usage": True}, "stop": ["x"],
     "seed": 1, "logit_bias": {"5": 1}, "suffix": None, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1},
)  # fmt: skip
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
CUSTOM = {"type": "custom", "name": "run", "format": {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}}
RESPONSES: tuple[dict[str, Any], ...] = (
    {"model": BASES[0], "input": "json", "max_output_tokens": 2, "text": {"format": {"type": "json_object"}}},
    {
        "model": BASES[0],
        "instructions": "x",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "1"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        ],
        "tools": [FUNCTION],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "stream": True,
        "max_output_tokens": 2,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "metadata": {"a": "b"},
        "truncation": "auto",
    },
    {
        "model": BASES[0],
        "input": [
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "1"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "1"},
        ],
        "tools": [FUNCTION, CUSTOM],
        "tool_choice": {"type": "custom", "name": "run"},
        "reasoning": {"effort": "none"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "max_output_tokens": 2,
    },
    {"model": BASES[0], "previous_response_id": "RESPONSE", "input": [{"type": "item_reference", "id": "msg_1"}]},
)
JOB: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "training_file": "FILE",
    "hyperparameters": {"n_epochs": 1, "batch_size": "auto"},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 1.0}}},
    "suffix": "s",
    "seed": 1,
    "metadata": {"a": "b"},
    "integrations": [{"type": "wandb", "wandb": {"project": "p"}}],
}
UPLOAD = {
    "filename": "a.jsonl", "purpose": "fine-tune", "bytes": 10, "mime_type": "text/jsonl",
    "expires_after": {"anchor": "created_at", "seconds": 3600},
}  # fmt: skip
BATCH: dict[str, Any] = {
    "input_file_id": "BATCH_FILE", "endpoint": "/v1/responses", "completion_window": "24h", "metadata": {"a": "b"},
    "output_expires_after": {"anchor": "created_at", "seconds": 3600},
}  # fmt: skip
BATCH_LINE = {"method": "POST", "url": "/v1/responses", "body": {"model": BASES[0], "input": "x"}}
IDS = ("FILE", "UPLOAD", "JOB", "CHAT", "RESPONSE", "BATCH", "BATCH_FILE", "ftjob-none", "file-none", "upload_none")
JSON_ROUTES: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("/v1/chat/completions", CHATS),
    ("/v1/chat/completions/{id}", ({"metadata": {"a": "b"}},)),
    ("/v1/completions", COMPLETIONS),
    ("/v1/responses", RESPONSES),
    ("/v1/responses/{id}/cancel", ({},)),
    ("/v1/responses/input_tokens", RESPONSES),
    ("/v1/responses/compact", RESPONSES),
    ("/v1/batches", (BATCH, {**BATCH, "endpoint": "/v1/chat/completions"})),
    ("/v1/batches/{id}/cancel", ({},)),
    ("/v1/fine_tuning/jobs", (JOB, {**JOB, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}},
                              {**JOB, "method": {"type": "reinforcement", "reinforcement": {"grader": CHECK}}})),
    ("/v1/fine_tuning/jobs/{id}/cancel", ({},)),
    ("/v1/fine_tuning/jobs/{id}/pause", ({},)),
    ("/v1/fine_tuning/jobs/{id}/resume", ({},)),
    ("/v1/uploads", (UPLOAD,)),
    ("/v1/uploads/{id}/complete", ({"part_ids": ["part_1"], "md5": "0" * 32},)),
    ("/v1/uploads/{id}/cancel", ({},)),
    ("/v1/fine_tuning/checkpoints/{id}/permissions", ({"project_ids": ["p"]},)),
    ("/v1/fine_tuning/alpha/graders/run", tuple({"grader": each, "model_sample": "x", "item": {"a": "x"}}
                                                for each in GRADERS)),
    ("/v1/fine_tuning/alpha/graders/validate", tuple({"grader": each} for each in GRADERS)),
)  # fmt: skip
FORM_ROUTES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("/v1/files", "file", {"purpose": "fine-tune", "expires_after": '{"anchor": "created_at", "seconds": 3600}'}),
    (
        "/v1/files",
        "file",
        {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
    ),
    ("/v1/uploads/{id}/parts", "data", {}),
    ("/v1/ftpipe/losses", "file", {"models": "[]"}),
)
OTHER_ROUTES = (
    ("GET", "/health"), ("GET", "/v1/files"), ("GET", "/v1/files/{id}"), ("DELETE", "/v1/files/none-{id}"),
    ("GET", "/v1/files/{id}/content"), ("GET", "/v1/fine_tuning/jobs"), ("GET", "/v1/fine_tuning/jobs/{id}"),
    ("DELETE", "/v1/fine_tuning/jobs/none-{id}"),
    ("GET", "/v1/fine_tuning/jobs/{id}/events"), ("GET", "/v1/fine_tuning/jobs/{id}/checkpoints"),
    ("GET", "/v1/fine_tuning/checkpoints/{id}/permissions"),
    ("DELETE", "/v1/fine_tuning/checkpoints/{id}/permissions/{id}"), ("GET", "/v1/fine_tuning/model_limits"),
    ("GET", "/v1/models"), ("GET", "/v1/models/{id}"), ("DELETE", "/v1/models/{id}"), ("GET", "/v1/chat/completions"),
    ("GET", "/v1/chat/completions/{id}"), ("GET", "/v1/chat/completions/{id}/messages"),
    ("DELETE", "/v1/chat/completions/none-{id}"),
    ("PUT", "/v1/files"), ("HEAD", "/v1/models"), ("GET", "/{id}"), ("OPTIONS", "/v1/chat/completions"),
    ("GET", "/v1/batches"), ("GET", "/v1/batches/{id}"), ("GET", "/openapi.json"), ("GET", "/metrics"),
    ("GET", "/v1/responses/{id}"), ("DELETE", "/v1/responses/none-{id}"), ("GET", "/v1/responses/{id}/input_items"),
)  # fmt: skip


def seed_rows(client: TestClient) -> dict[str, str]:
    """Make a file, an upload, a job, a stored chat, a response and a batch; their ids by the fuzzer's words."""
    chat = client.post("/v1/chat/completions", json={**CHATS[0], "store": True}).json()
    response = client.post("/v1/responses", json={"model": BASES[0], "input": "x"}).json()
    begun = client.post("/v1/uploads", json={"filename": "a.jsonl", "purpose": "batch", "bytes": 1, "mime_type": "x"})
    lines = "".join(json.dumps({**BATCH_LINE, "custom_id": f"r{number}"}) + "\n" for number in range(3))
    form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", lines.encode())}}
    batch_file = client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
    batch = client.post("/v1/batches", json={**BATCH, "input_file_id": batch_file}).json()
    return {
        "BATCH_FILE": batch_file,
        "BATCH": batch["id"],
        "FILE": upload(client)["id"],
        "UPLOAD": begun.json()["id"],
        "JOB": create_job(client)["id"],
        "CHAT": chat["id"],
        "RESPONSE": response["id"],
    }


@dataclass
class FuzzReport:
    """What the server answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Requests that were answered with 5xx, or with an error that is not OpenAI's object."""


class RouteFuzzer:
    """Sends random requests.

    Args:
        client: A client of the server.
        seed: Makes the same requests each time.
        ids: Ids that exist, by the words of ``IDS`` in capitals.
    """

    def __init__(self, client: TestClient, seed: int, ids: dict[str, str]) -> None:
        self._client = client
        self._random = random.Random(seed)
        self._ids = ids
        self.report = FuzzReport()

    def run(self, requests: int, on_progress: Callable[[int], None] = lambda _: None) -> FuzzReport:
        """Send a number of requests."""
        for number in range(requests):
            self._send_one()
            if number % 1000 == 0:
                on_progress(number)
        return self.report

    def _send_one(self) -> None:
        kind = self._random.random()
        if kind < 0.65:
            request = self._json_request()
        elif kind < 0.8:
            request = self._form_request()
        else:
            request = self._other_request()
        try:
            request.encode()
            response = self._client.send(request.build(self._client))
        except (UnicodeError, httpx2.InvalidURL):
            return  # the client cannot send it
        self._check(request, response)

    def _check(self, request: FuzzRequest, response: httpx2.Response) -> None:
        self.report.statuses[response.status_code] += 1
        if response.status_code < 400:
            return
        try:
            is_openai_error = set(response.json()["error"]) == {"message", "type", "param", "code"}
        except (ValueError, KeyError, TypeError):
            is_openai_error = request.method == "HEAD"
        if response.status_code >= 500 or not is_openai_error:
            self.report.faults.append(f"{response.status_code} {request} -> {response.text[:200]}")

    def _json_request(self) -> FuzzRequest:
        path, bodies = self._random.choice(JSON_ROUTES)
        text = json.dumps(self._random.choice(bodies))
        for name in ("FILE", "RESPONSE", "BATCH_FILE"):
            text = text.replace(f'"{name}"', json.dumps(self._ids[name]))
        body = json.loads(text)
        headers = {"content-type": "application/json"}
        if self._random.random() < 0.1:
            headers["idempotency-key"] = self._random.choice(("a", "b", "x" * 300))
        if self._random.random() < 0.1:
            return FuzzRequest("POST", self._path(path), self._raw_body(), headers)
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 4))):
            body = self._mutate(body)
        return FuzzRequest("POST", self._path(path), dump(body), headers)

    def _form_request(self) -> FuzzRequest:
        path, field_name, fields = self._random.choice(FORM_ROUTES)
        fields = {name: self._text() if self._random.random() < 0.3 else value for name, value in fields.items()}
        if self._random.random() < 0.2:
            fields[self._text()] = self._text()
        boundary = "b"
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                 for name, value in fields.items()]  # fmt: skip
        name = self._random.choice((field_name, field_name, "other"))
        filename = self._text() if self._random.random() < 0.3 else "a.jsonl"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
        parts.append(f"{head}{self._text()}\r\n--{boundary}--\r\n")
        self._random.shuffle(parts[:-1])
        body = "".join(parts).encode("utf-8", "replace")
        if self._random.random() < 0.1:
            body = body[: self._random.randrange(len(body))]
        suffix = "" if self._random.random() < 0.1 else f"; boundary={boundary}"
        return FuzzRequest("POST", self._path(path), body, {"content-type": f"multipart/form-data{suffix}"})

    def _other_request(self) -> FuzzRequest:
        method, path = self._random.choice(OTHER_ROUTES)
        query = {}
        for name in ("after", "limit", "order", "metadata", "metadata[a]", "purpose", "model", "project_id", "\x00"):
            if self._random.random() < 0.15:
                query[name] = self._text()
        return FuzzRequest(method, self._path(path), b"", {}, query)

    def _path(self, template: str) -> str:
        while "{id}" in template:
            name = self._random.choice((*IDS, *IDS, *BASES, *ODD_TEXTS))
            template = template.replace("{id}", quote(self._ids.get(name, name)[:2000]), 1)
        return template

    def _raw_body(self) -> bytes:
        depth = self._random.choice(DEPTHS)
        return self._random.choice(
            (
                b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b"\x00", b'{"a": NaN}', b'{"a": 1e999}', b"[" * depth,
                b"[" * depth + b"]" * depth, b'{"model":' * depth + b"1" + b"}" * depth, b'{"a": "\\ud800"}',
                b'{"messages":' + b"[" * depth + b"]" * depth + b"}", b'{"a":1,"a":2}', b'{"n":' + b"9" * 5000 + b"}",
            )
        )  # fmt: skip

    def _mutate(self, value: Any) -> Any:
        """A value with one of its parts replaced, removed or added."""
        paths = list(paths_of(value))
        path = self._random.choice(paths)
        if not path:
            return self._value() if self._random.random() < 0.2 else value
        parent = value
        for step in path[:-1]:
            parent = parent[step]
        action = self._random.random()
        if action < 0.7:
            parent[path[-1]] = self._value()
        elif action < 0.85 and isinstance(parent, dict):
            parent[self._random.choice((*KEYS, self._text()))] = self._value()
        else:
            del parent[path[-1]]
        return value

    def _value(self) -> Any:
        kind = self._random.randrange(8)
        if kind == 0:
            return self._random.choice(ODD_NUMBERS)
        if kind == 1:
            return self._random.choice((None, True, False, [], {}, [[]], [{}], {"a": None}))
        if kind == 2:
            return self._nested(self._random.choice(DEPTHS))
        if kind == 3:
            return json.loads(json.dumps(self._random.choice(ODD_SCHEMAS)))
        if kind == 4:
            return self._tree(self._random.randrange(1, 6))
        if kind == 5:
            return json.loads(json.dumps(self._random.choice((TOOL, CALL, *GRADERS, [TOOL], [CALL], [TOOL] * 200))))
        return self._text()

    def _nested(self, depth: int) -> Any:
        value: Any = self._random.choice((1, "x", None, {}))
        in_objects = self._random.random() < 0.5
        for _ in range(depth):
            value = {"a": value} if in_objects else [value]
        return value

    def _tree(self, depth: int) -> Any:
        if depth == 0:
            return self._text()
        if self._random.random() < 0.5:
            return [self._tree(depth - 1) for _ in range(self._random.randrange(4))]
        return {self._random.choice(KEYS): self._tree(depth - 1) for _ in range(self._random.randrange(4))}

    def _text(self) -> str:
        if self._random.random() < 0.5:
            return self._random.choice(ODD_TEXTS)
        return "".join(chr(self._random.choice((32, 34, 60, 92, 97, 123, 0x301, 0x1F600))) for _ in range(6))


@dataclass
class FuzzRequest:
    """One request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    query: dict[str, str] = field(default_factory=dict)

    def encode(self) -> None:
        """Raise an error if the request cannot be sent."""
        for text in (*self.query, *self.query.values()):
            text.encode()

    def build(self, client: TestClient) -> httpx2.Request:
        """The request for the client."""
        return client.build_request(
            self.method, self.path, content=self.body or None, headers=self.headers, params=self.query or None
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path[:80]} {self.query} {self.headers} {self.body[:300]!r} ({len(self.body)})"


def dump(value: Any) -> bytes:
    """JSON of a value of any depth."""
    pieces: list[str] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, _Raw):
            pieces.append(item.text)
        elif isinstance(item, dict):
            parts: list[Any] = [_Raw("{")]
            for index, (key, inner) in enumerate(item.items()):
                parts += [_Raw(("," if index else "") + json.dumps(key) + ":"), inner]
            stack += [*reversed([*parts, _Raw("}")])]
        elif isinstance(item, list):
            parts = [_Raw("[")]
            for index, inner in enumerate(item):
                parts += [*([_Raw(",")] if index else []), inner]
            stack += [*reversed([*parts, _Raw("]")])]
        else:
            pieces.append(json.dumps(item))
    return "".join(pieces).encode()


@dataclass
class _Raw:
    text: str


def paths_of(value: Any) -> Iterator[tuple[Any, ...]]:
    """Where the parts of a value are, down to a depth of ten."""
    pending: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while pending:
        path, item = pending.pop()
        yield path
        if len(path) < 10:
            if isinstance(item, dict):
                pending += [((*path, key), inner) for key, inner in item.items()]
            elif isinstance(item, list):
                pending += [((*path, index), inner) for index, inner in enumerate(item[:10])]


def quote(text: str) -> str:
    """A text as one segment of a path."""
    return "".join(f"%{byte:02x}" if not 48 <= byte <= 122 else chr(byte) for byte in text.encode("utf-8", "replace"))
