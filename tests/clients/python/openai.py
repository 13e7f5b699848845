"""openai-python: OpenAI's own client, with what it reads from the environment."""

from __future__ import annotations

from functools import partial
from typing import Any

from openai import NotFoundError, OpenAI

from tests.clients.python.checks import (
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MESSAGES,
    MODEL,
    QUESTION,
    SCHEMA,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    run,
    training_file,
    wait_until_ended,
)
from tests.clients.python.tickets import Ticket

client = OpenAI()
STRICT_TOOL: Any = {"type": "function", "function": {"name": "route", "parameters": SCHEMA, "strict": True}}


def models() -> str:
    names = [model.id for model in client.models.list()]
    expect(MODEL in names, names)
    expect(client.models.retrieve(MODEL).id == MODEL, MODEL)
    return f"{len(names)} models"


def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=MAX_TOKENS)
    expect(answer.usage and answer.usage.prompt_tokens > 0, answer)
    response = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=MAX_TOKENS)
    expect(response.usage and response.usage.input_tokens > 0, response)


def stream() -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=MAX_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    expect(chunks[-1].usage and chunks[-2].choices[0].finish_reason, chunks)
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=MAX_TOKENS) as events:
        kinds = [event.type for event in events]
    expect(kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds)


def tools() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[STRICT_TOOL], tool_choice="required", max_tokens=100
    )
    message = answer.choices[0].message
    expect(answer.choices[0].finish_reason == "tool_calls" and message.tool_calls, answer)
    result = {"role": "tool", "tool_call_id": (message.tool_calls or [])[0].id, "content": "done"}
    conversation = [*MESSAGES, message.model_dump(exclude_none=True), result]
    client.chat.completions.create(model=MODEL, messages=conversation, tools=[STRICT_TOOL], max_tokens=MAX_TOKENS)
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=[STRICT_TOOL], tool_choice="required", max_tokens=100
    ) as events:
        streamed = events.get_final_completion().choices[0].message.tool_calls
    expect(streamed and streamed[0].function.name == "route", streamed)


def structured() -> None:
    parsed = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Ticket, max_tokens=100)
    expect(isinstance(parsed.choices[0].message.parsed, Ticket), parsed)
    response = client.responses.parse(model=MODEL, input=QUESTION, text_format=Ticket, max_output_tokens=100)
    expect(isinstance(response.output_parsed, Ticket), response)


def embeddings() -> str:
    return expect_error(NotFoundError, lambda: client.embeddings.create(model=MODEL, input="x"), EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    call = partial(client.chat.completions.create, model=UNKNOWN_MODEL, messages=MESSAGES)
    return expect_error(NotFoundError, call, "model_not_found", UNKNOWN_MODEL)


def fine_tuning() -> str:
    with training_file().open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=uploaded.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
    )
    name = wait_until_ended(lambda: client.fine_tuning.jobs.retrieve(job.id))
    client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=MAX_TOKENS)
    expect(list(client.fine_tuning.jobs.list_events(job.id)), "no events")
    client.models.delete(name)
    return name


if __name__ == "__main__":
    run(("openai",), models, chat, stream, tools, structured, embeddings, unknown_model, fine_tuning)
