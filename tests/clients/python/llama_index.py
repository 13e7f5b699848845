"""LlamaIndex: ``OpenAILike`` for chats, and ``OpenAIResponses``."""

from __future__ import annotations

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    expect_ticket,
    run,
)
from tests.clients.python.tickets import Ticket, route


def chat_model(name: str = MODEL, max_tokens: int = MAX_TOKENS, **options: bool) -> OpenAILike:
    return OpenAILike(
        model=name,
        api_base=BASE_URL,
        api_key=API_KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=max_tokens,
        max_retries=0,
        **options,
    )


def responses_model(max_tokens: int = MAX_TOKENS) -> OpenAIResponses:
    return OpenAIResponses(
        model=MODEL, api_base=BASE_URL, api_key=API_KEY, max_output_tokens=max_tokens, context_window=8192
    )


def chat() -> None:
    for model in (chat_model(), responses_model()):
        expect(model.chat([ChatMessage(role="user", content=QUESTION)]).message is not None, model)
    expect(chat_model().complete(QUESTION) is not None, "no completion")
    plain = chat_model().model_copy(update={"is_chat_model": False})
    expect(plain.complete(QUESTION) is not None, "no text completion")


def stream() -> None:
    for model in (chat_model(), responses_model()):
        parts = list(model.stream_chat([ChatMessage(role="user", content=QUESTION)]))
        expect(parts, "no parts")


def tools() -> None:
    tool = FunctionTool.from_defaults(route, fn_schema=Ticket)
    for model in (chat_model(max_tokens=100), responses_model(100)):
        answer = model.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
        calls = model.get_tool_calls_from_response(answer)
        expect_ticket(calls[0].tool_kwargs)
        history = [
            ChatMessage(role="user", content=QUESTION),
            answer.message,
            ChatMessage(role="tool", content="done", additional_kwargs={"tool_call_id": calls[0].tool_id}),
        ]
        model.chat_with_tools([tool], chat_history=history)


def structured() -> None:
    for should_use in (False, True):
        model = chat_model(max_tokens=100, should_use_structured_outputs=should_use)
        ticket = model.as_structured_llm(Ticket).chat([ChatMessage(role="user", content=QUESTION)]).raw
        expect(isinstance(ticket, Ticket), ticket)


def embeddings() -> str:
    model = OpenAILikeEmbedding(model_name=MODEL, api_base=BASE_URL, api_key=API_KEY, max_retries=0)
    return expect_error(openai.NotFoundError, lambda: model.get_text_embedding("x"), EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    model = chat_model(UNKNOWN_MODEL)
    return expect_error(openai.NotFoundError, lambda: model.complete(QUESTION), "model_not_found", UNKNOWN_MODEL)


if __name__ == "__main__":
    run(
        ("llama-index-core", "llama-index-llms-openai-like", "llama-index-llms-openai"),
        chat,
        stream,
        tools,
        structured,
        embeddings,
        unknown_model,
    )
