"""Three clients do with the server what they do with OpenAI; ``python -m tests.clients`` runs all of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import CLIENTS, NODE_FOLDER, command_of, run_program
from tests.clients.server import ClientServer

BY_NAME = {client.name: client for client in CLIENTS}
HAS_NODE = shutil.which("node") is not None and (NODE_FOLDER / "node_modules").is_dir()
NEEDS_NODE = (
    pytest.mark.needs(),  # for ``-m needs``: what the test needs is not a Python package
    pytest.mark.skipif(not HAS_NODE, reason="needs node, and `npm ci --prefix tests/clients/node`"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientServer]:
    with ClientServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("langchain", marks=pytest.mark.needs("langchain_openai")),
        pytest.param("pydantic_ai", marks=pytest.mark.needs("pydantic_ai")),
        pytest.param("openai-npm", marks=NEEDS_NODE),
        pytest.param("ai-sdk-npm", marks=NEEDS_NODE),
    ],
)
def test_client_passes_all_its_checks(server: ClientServer, tmp_path: Path, name: str) -> None:
    client = BY_NAME[name]
    outcome = run_program(client, command_of(client, None), server, tmp_path)
    assert {check: error for check, error in outcome.results.items() if error} == {}, outcome.output
    assert outcome.is_passed, outcome.output
