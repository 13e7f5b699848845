"""LangChain: ``ChatOpenAI`` of langchain-openai, with every method of structured output, and the responses API."""

from __future__ import annotations

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.clients.python.checks import (
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    expect_ticket,
    run,
    token_id,
)
from tests.clients.python.tickets import Ticket, route

route_tool = tool(route)


def chat_model(**options: object) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, max_retries=0, **{"max_tokens": MAX_TOKENS, **options})


def chat() -> None:
    for responses in (False, True):
        answer = chat_model(use_responses_api=responses).invoke(QUESTION)
        expect(isinstance(answer, AIMessage) and answer.usage_metadata, answer)


def stream() -> None:
    for responses in (False, True):
        chunks = list(chat_model(use_responses_api=responses, stream_usage=True).stream(QUESTION))
        expect(any(chunk.usage_metadata for chunk in chunks), "no usage")


def tools() -> None:
    for responses in (False, True):
        model = chat_model(max_tokens=100, use_responses_api=responses)
        question = HumanMessage(QUESTION)
        answer = model.bind_tools([route_tool], tool_choice="any").invoke([question])
        call = answer.tool_calls[0]
        expect(call["name"] == "route", answer)
        expect_ticket(call["args"])
        result = ToolMessage(route_tool.invoke(call["args"]), tool_call_id=call["id"])
        model.bind_tools([route_tool]).invoke([question, answer, result])
        streamed = list(model.bind_tools([route_tool], tool_choice="route").stream([question]))
        joined = streamed[0]
        for chunk in streamed[1:]:
            joined += chunk
        expect(joined.tool_calls[0]["name"] == "route", joined)


def structured() -> str:
    for method in ("json_schema", "function_calling"):
        for responses in (False, True):
            for strict in (None, True):
                model = chat_model(max_tokens=100, use_responses_api=responses)
                ticket = model.with_structured_output(Ticket, method=method, strict=strict).invoke(QUESTION)
                expect(isinstance(ticket, Ticket), (method, responses, strict, ticket))
    # in this mode any object is an answer, and a random model ends one only if the brace is likely
    short = chat_model(max_tokens=100, logit_bias={token_id("}"): 100})
    expect(short.with_structured_output(None, method="json_mode").invoke(QUESTION) == {}, "not an object")
    return "json_schema, function_calling, json_mode"


def embeddings() -> str:
    model = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, max_retries=0)
    return expect_error(openai.NotFoundError, lambda: model.embed_query("x"), EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    model = ChatOpenAI(model=UNKNOWN_MODEL, max_retries=0)
    return expect_error(openai.NotFoundError, lambda: model.invoke(QUESTION), "model_not_found", UNKNOWN_MODEL)


if __name__ == "__main__":
    run(("langchain-openai", "langchain-core"), chat, stream, tools, structured, embeddings, unknown_model)
