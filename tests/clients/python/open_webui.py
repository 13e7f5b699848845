"""Open WebUI's requests, replayed: its package needs hundreds of others, and its requests are a few lines.

Source: open-webui 0.12.4, ``routers/openai.py``, ``routers/tasks.py`` and ``utils/payload.py``, 2026-11-29.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    SCHEMA,
    UNKNOWN_MODEL,
    expect,
    run,
)

VERSION = "0.12.4"
HEADERS = {
    "Content-Type": "application/json",
    "Authorization": f"Bearer {API_KEY}",
    "X-OpenWebUI-User-Name": "Anna",
    "X-OpenWebUI-User-Id": "4a6b",
    "X-OpenWebUI-User-Email": "anna@example.com",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "c0ffee",
}
TURN = {"role": "user", "content": QUESTION}
TOOL = {"type": "function", "function": {"name": "route", "description": "Route a ticket.", "parameters": SCHEMA}}
ADVANCED_PARAMETERS = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "seed": 1,
    "stop": ["###"],
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repeat_penalty": 1.1,
    "reasoning_effort": "low",
    "think": False,
    "keep_alive": "5m",
    "num_ctx": 4096,
    "num_keep": 24,
    "num_batch": 512,
    "num_thread": 2,
    "num_gpu": 1,
    "use_mmap": True,
    "use_mlock": True,
}
"""Values of the panel "Advanced Params" that are not left at their default; also those of Ollama are sent."""


def call(path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """GET, or POST; the status and the text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{BASE_URL}{path}", data, HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def post(path: str, **body: Any) -> dict[str, Any]:
    status, text = call(path, {"model": MODEL, **body})
    expect(status == 200, text)
    answer: dict[str, Any] = json.loads(text)
    return answer


def streamed(path: str, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream."""
    status, text = call(path, {"model": MODEL, "stream": True, **body})
    expect(status == 200, text)
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat_stream(*messages: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    options = {"stream_options": {"include_usage": True}, "max_tokens": MAX_TOKENS}
    return streamed("/chat/completions", messages=list(messages), **options | body)


def models() -> str:
    status, text = call("/models")
    expect(status == 200 and MODEL in [model["id"] for model in json.loads(text)["data"]], text)
    return "the connection's check and the list"


def chat() -> str:
    prompt = {"role": "user", "content": "### Task: Generate a title as JSON."}
    title = post("/chat/completions", messages=[prompt], stream=False, max_tokens=MAX_TOKENS)
    expect(title["choices"][0]["message"]["role"] == "assistant", title)
    return "titles and tags"


def stream() -> str:
    system = {"role": "system", "content": "Be short."}
    expect(chat_stream(system, TURN)[-1]["usage"]["prompt_tokens"] > 0, "no usage")
    parts = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    chat_stream(system, TURN, {"role": "assistant", "content": "Refunded."}, parts, **ADVANCED_PARAMETERS)
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]}
    events = streamed("/responses", input=[message], instructions="Be short.", max_output_tokens=MAX_TOKENS)
    expect(events[-1]["type"] in ("response.completed", "response.incomplete"), events[-1])
    return "with all advanced parameters; also over /responses"


def tools() -> None:
    parts = chat_stream(TURN, tools=[TOOL], tool_choice="required", max_tokens=100)
    calls = [call for part in parts for choice in part["choices"] for call in choice["delta"].get("tool_calls") or ()]
    expect(calls and calls[0]["function"]["name"] == "route", parts)
    arguments = "".join(call["function"]["arguments"] or "" for call in calls)
    whole_call = {"id": calls[0]["id"], "type": "function", "function": {"name": "route", "arguments": arguments}}
    answer = {"role": "assistant", "content": "", "tool_calls": [whole_call]}
    chat_stream(TURN, answer, {"role": "tool", "tool_call_id": whole_call["id"], "content": "done"}, tools=[TOOL])


def embeddings() -> str:
    status, text = call("/embeddings", {"model": MODEL, "input": ["x"]})
    expect(status == 404 and EMBEDDINGS_REFUSAL in text, text)
    return "404"


def unknown_model() -> str:
    status, text = call("/chat/completions", {"model": UNKNOWN_MODEL, "messages": [TURN], "stream": True})
    expect(status == 404 and json.loads(text)["error"]["code"] == "model_not_found", text)
    return "404"


if __name__ == "__main__":
    run({"Open WebUI's requests": VERSION}, models, chat, stream, tools, embeddings, unknown_model)
