"""instructor: every mode of a structured answer that it has for OpenAI's API."""

from __future__ import annotations

from functools import partial

import instructor
import openai

from tests.clients.python.checks import (
    MESSAGES,
    MODEL,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    run,
)
from tests.clients.python.tickets import Ticket

MODES = ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS")


def structured() -> str:
    modes = [name for name in MODES if name in instructor.Mode.__members__]
    for name in modes:
        client = instructor.from_openai(openai.OpenAI(), mode=instructor.Mode[name])
        limit = {"max_output_tokens": 100} if name.startswith("RESPONSES") else {"max_tokens": 100}
        ticket = client.create(model=MODEL, messages=MESSAGES, response_model=Ticket, max_retries=0, **limit)
        expect(isinstance(ticket, Ticket), (name, ticket))
    return ", ".join(modes)


def stream() -> None:
    client = instructor.from_provider(f"openai/{MODEL}")
    parts = list(client.create_partial(messages=MESSAGES, response_model=Ticket, max_tokens=100))
    expect(parts[-1].queue in ("billing", "bug"), parts)


def unknown_model() -> str:
    client = instructor.from_openai(openai.OpenAI())
    call = partial(client.create, model=UNKNOWN_MODEL, messages=MESSAGES, response_model=Ticket, max_retries=0)
    return expect_error(Exception, call, UNKNOWN_MODEL)


if __name__ == "__main__":
    run(("instructor",), structured, stream, unknown_model)
