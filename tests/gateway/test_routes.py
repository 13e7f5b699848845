"""Chats with the name of a model that another one has replaced, through OpenAI's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from ftpipe.cli.serve_providers import THIS_SERVER, refuse_shadow_of_same_model
from ftpipe.errors import UsageError
from ftpipe.gateway.routes import RegistryRoutes, parse_routes
from ftpipe.registry import Registry
from ftpipe.server.settings import ShadowPair
from tests.fakes.chat_host import SERVED, ChatHost
from tests.gateway.conftest import OLD, MakeServer, make_routes, register
from tests.server.fakes import TINY

MESSAGES: Any = [{"role": "user", "content": "My parcel is late."}]


def ask(client: openai.OpenAI, model: str = OLD) -> tuple[str, str | None]:
    """The model's name in an answer, and its text."""
    answer = client.chat.completions.create(model=model, messages=MESSAGES)
    return answer.model, answer.choices[0].message.content


def test_old_name_is_answered_by_successor_at_its_host(make_server: MakeServer, host: ChatHost) -> None:
    """The answer has the name that the client sent; the request has the successor's."""
    assert ask(make_server().client()) == (OLD, "a forwarded answer")
    assert (host.calls[0].path, host.calls[0].body) == (
        "/v1/chat/completions",
        {"model": SERVED, "messages": MESSAGES},
    )


def test_old_name_is_answered_by_model_of_this_server(make_server: MakeServer, host: ChatHost) -> None:
    """``local:NAME`` is this server; nothing is forwarded."""
    server = make_server({OLD: f"local:{TINY}"})
    assert ask(server.client()) == (OLD, "hello there friend")
    chunks = list(server.client().chat.completions.create(model=OLD, messages=MESSAGES, stream=True))
    assert {chunk.model for chunk in chunks} == {OLD}
    assert host.calls == []


def test_moved_alias_counts_at_next_chat(
    make_server: MakeServer, host: ChatHost, registry: Registry, tmp_path: Path
) -> None:
    """To another model, back, and to a model of this server; the server goes on running."""
    register(registry, tmp_path, "org/second", endpoint=host.base_url)
    register(registry, tmp_path, TINY, endpoint=f"local:{tmp_path / 'data'}", provider="local")
    client = make_server({}, with_aliases=True).client()
    for target in (SERVED, "org/second", SERVED):
        registry.models.set_alias(OLD, target)
        ask(client)
    assert [call.body["model"] for call in host.calls] == [SERVED, "org/second", SERVED]
    registry.models.set_alias(OLD, TINY)
    assert ask(client) == (OLD, "hello there friend")


def test_route_to_alias_follows_it(make_server: MakeServer, host: ChatHost, registry: Registry, tmp_path: Path) -> None:
    register(registry, tmp_path, "org/second", endpoint=host.base_url)
    registry.models.set_alias("support@production", SERVED)
    client = make_server({OLD: "support@production"}).client()
    ask(client)
    registry.models.set_alias("support@production", "org/second")
    ask(client)
    assert [call.body["model"] for call in host.calls] == [SERVED, "org/second"]


def test_models_lists_routes_once_and_protects_them(make_server: MakeServer, registry: Registry) -> None:
    """Also a name that a base model of this server has."""
    registry.models.set_alias("gpt-4o-mini", SERVED)
    client = make_server(with_aliases=True).client()
    names = [model.id for model in client.models.list()]
    assert names.count(OLD) == names.count("gpt-4o-mini") == 1
    assert client.models.retrieve(OLD).id == OLD
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete(OLD)


@pytest.mark.parametrize("name", ["http://127.0.0.1:1/v1", f"openai:{SERVED}", SERVED, "together:x"])
def test_client_cannot_choose_host(make_server: MakeServer, host: ChatHost, name: str) -> None:
    """Only names with a route are forwarded: not what a route may lead to, and no address."""
    with pytest.raises(openai.NotFoundError):
        ask(make_server().client(), name)
    assert host.calls == []


def test_model_of_another_endpoint_is_not_asked_for_at_this_one(
    make_server: MakeServer, host: ChatHost, registry: Registry, tmp_path: Path
) -> None:
    """The provider's address has changed since the model was registered: another host may have the same name."""
    register(registry, tmp_path, "org/elsewhere", endpoint="https://elsewhere.example/v1")
    with pytest.raises(openai.InternalServerError) as raised:
        ask(make_server({OLD: "org/elsewhere"}).client())
    assert (raised.value.status_code, raised.value.code) == (503, "model_unavailable")
    assert "elsewhere" not in str(raised.value)
    assert host.calls == []


def test_route_without_registered_model_is_503(make_server: MakeServer) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        ask(make_server({OLD: "no-such-model"}).client())
    assert raised.value.code == "model_unavailable"


def test_own_name_of_a_model_is_found_before_an_alias(registry: Registry, tmp_path: Path) -> None:
    """``models show OLD`` shows the old model, though its name is also an alias of the new one."""
    register(registry, tmp_path, OLD, endpoint="e")
    register(registry, tmp_path, "new", endpoint="e")
    registry.models.set_alias(OLD, "new")
    assert registry.models.get(OLD).id == OLD
    behind = registry.models.behind_alias(OLD)
    assert behind is not None
    assert behind.id == "new"
    registry.models.set_alias(OLD, OLD, reason="back")
    assert [move.to_model for move in registry.models.alias_history(OLD)] == ["new", OLD]


def test_route_names_the_nearest_provider(registry: Registry) -> None:
    def refusal(target: str) -> UsageError:
        with pytest.raises(UsageError) as raised:
            RegistryRoutes(
                registry,
                {OLD: target},
                with_aliases=False,
                providers=["openai", "local"],
                open_provider=lambda name: pytest.fail(name),
                own_endpoint="local",
            ).served(OLD)
        return raised.value

    mistyped = refusal("opnai:gpt-4")
    assert "no provider 'opnai'" in mistyped.message
    assert mistyped.hint == "did you mean openai:gpt-4?"
    assert "no model 'ft:other:acme::1'" in refusal("ft:other:acme::1").message


@pytest.mark.parametrize("value", ["old", "=new", "old=", " = "])
def test_parse_routes_refuses_other_forms(value: str) -> None:
    with pytest.raises(UsageError):
        parse_routes([value])


def test_parse_routes_refuses_name_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_routes(["a=b", "a=c"])
    assert parse_routes(["a = openai:b=c"]) == {"a": "openai:b=c"}


def test_shadow_of_same_model_is_refused(
    registry: Registry, tmp_path: Path, host: ChatHost, make_server: MakeServer
) -> None:
    """An alias leads to the new model as well; another model behind it can be compared."""
    make_server({})  # registers the model
    register(registry, tmp_path, "org/second", endpoint=host.base_url)
    registry.models.set_alias(OLD, SERVED)
    registry.models.set_alias("next", SERVED)
    routes = make_routes(registry, tmp_path, with_aliases=True)
    with pytest.raises(UsageError, match=f"--aliases, --shadow {OLD}=next would"):
        refuse_shadow_of_same_model(routes, (), [ShadowPair(OLD, "next")], default_host=THIS_SERVER)
    refuse_shadow_of_same_model(routes, (), [ShadowPair(OLD, SERVED)], default_host=THIS_SERVER)
    with pytest.raises(UsageError, match="itself"):
        refuse_shadow_of_same_model(routes, (), [ShadowPair(OLD, SERVED)], default_host="openai")
    registry.models.set_alias("next", "org/second")
    refuse_shadow_of_same_model(routes, (), [ShadowPair(OLD, "next")], default_host=THIS_SERVER)
