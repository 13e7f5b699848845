"""openai-agents: its default, which is the responses API, and chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import openai
from agents import (
    Agent,
    ModelSettings,
    Runner,
    function_tool,
    set_default_openai_api,
    set_default_openai_client,
    set_tracing_disabled,
)

from tests.clients.python.checks import MODEL, QUESTION, UNKNOWN_MODEL, expect, expect_error, run
from tests.clients.python.tickets import Ticket, route

APIS = ("responses", "chat_completions")
MAX_TOKENS = 4000
"""An answer that is cut off is an error for this client, and the random model ends one by chance."""

route_tool = function_tool(route)
set_tracing_disabled(True)


def agent(name: str = MODEL, **options: object) -> Agent:
    settings = ModelSettings(max_tokens=MAX_TOKENS, tool_choice="required" if "tools" in options else None)
    return Agent(name="desk", instructions="Route tickets.", model=name, model_settings=settings, **options)


def with_each_api(check: Callable[[], Coroutine[None, None, None]]) -> str:
    """Run a check with both APIs."""
    for api in APIS:
        set_default_openai_client(openai.AsyncOpenAI(), use_for_tracing=False)  # one for each event loop
        set_default_openai_api(api)
        asyncio.run(check())
    return ", ".join(APIS)


def chat() -> str:
    async def check() -> None:
        result = await Runner.run(agent(), QUESTION)
        expect(isinstance(result.final_output, str), result)

    return with_each_api(check)


def stream() -> str:
    async def check() -> None:
        result = Runner.run_streamed(agent(), QUESTION)
        events = [event async for event in result.stream_events()]
        expect(events and isinstance(result.final_output, str), result)

    return with_each_api(check)


def tools() -> str:
    async def check() -> None:
        result = await Runner.run(agent(tools=[route_tool]), QUESTION)
        kinds = [item.type for item in result.new_items]
        expect(kinds[:2] == ["tool_call_item", "tool_call_output_item"], kinds)

    return with_each_api(check)


def structured() -> str:
    async def check() -> None:
        result = await Runner.run(agent(output_type=Ticket), QUESTION)
        expect(isinstance(result.final_output, Ticket), result)

    return with_each_api(check)


def unknown_model() -> str:
    async def check() -> None:
        await Runner.run(agent(UNKNOWN_MODEL), QUESTION)

    return expect_error(openai.NotFoundError, lambda: with_each_api(check), UNKNOWN_MODEL)


if __name__ == "__main__":
    run(("openai-agents",), chat, stream, tools, structured, unknown_model)
