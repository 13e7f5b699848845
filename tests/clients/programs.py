"""The clients, and how the program of each is run against a server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.server import ClientServer

ROOT = Path(__file__).parents[2]
NODE_FOLDER = Path(__file__).parent / "node"
MAX_PROGRAM_SECONDS = 900
CHECKS = (
    *("models", "chat", "stream", "tools", "structured", "embeddings", "unknown_model", "fine_tuning"),
    *("completions", "choices", "logprobs"),
)
"""What is checked: names of functions of the programs, and columns of the table. No client has all of them."""


@dataclass(frozen=True)
class Client:
    """A client and the program that uses it.

    ``requirements`` are what ``pip`` or ``npm`` installs for it.
    """

    title: str
    program: str
    requirements: tuple[str, ...]

    @property
    def is_node(self) -> bool:
        """Whether the program is JavaScript."""
        return self.program.endswith(".mjs")

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.program.removesuffix(".mjs") + ("-npm" if self.is_node else "")


CLIENTS = (
    Client("openai (Python)", "openai", ("openai",)),
    Client("AzureOpenAI (Python)", "azure", ("openai",)),
    Client("openai (npm)", "openai.mjs", ()),
    Client("Vercel AI SDK", "ai-sdk.mjs", ()),
    Client("LangChain", "langchain", ("langchain-openai",)),
    Client("LiteLLM", "litellm", ("litellm",)),
    Client("DSPy", "dspy", ("dspy",)),
    Client("LlamaIndex", "llama_index", ("llama-index-llms-openai-like", "llama-index-embeddings-openai-like")),
    Client("instructor", "instructor", ("instructor",)),
    Client("pydantic-ai", "pydantic_ai", ("pydantic-ai-slim[openai]",)),
    Client("openai-agents", "openai_agents", ("openai-agents",)),
    Client("promptfoo", "promptfoo.mjs", ("promptfoo",)),
    Client("llm", "llm", ("llm",)),
    Client("inspect-ai", "inspect_ai", ("inspect-ai", "openai")),
    Client("lm-eval", "lm_eval", ("lm_eval[api]", "transformers")),
    Client("Open WebUI", "open_webui", ()),
)


@dataclass
class Outcome:
    """What the program of a client has printed."""

    client: Client
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, str | None] = field(default_factory=dict)
    """Check → its error, or ``None`` if it has passed."""
    output: str = ""
    """What else it has printed, for a person to read."""

    @property
    def is_passed(self) -> bool:
        """Whether checks were run and none has failed."""
        return bool(self.results) and not any(self.results.values())


def run_program(
    client: Client, command: list[str], server: ClientServer, folder: Path, checks: Iterable[str] = ()
) -> Outcome:
    """Run a client's program.

    Args:
        client: The client.
        command: What runs it: a Python or ``node``, and the folder of Node's program.
        server: The server.
        folder: A folder for its files.
        checks: Names of checks; none means all.
    """
    ran = subprocess.run(
        [*command, *checks],
        cwd=ROOT,
        env=server.environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=MAX_PROGRAM_SECONDS,
    )
    outcome = Outcome(client, output=ran.stdout)
    for line in ran.stdout.splitlines():
        if line.startswith('{"versions"'):
            outcome.versions = json.loads(line)["versions"]
        elif line.startswith('{"check"'):
            result = json.loads(line)
            outcome.results[result["check"]] = result["error"]
    if ran.returncode and outcome.is_passed:
        outcome.results["exit"] = f"exit code {ran.returncode}"
    return outcome


def command_of(client: Client, environments: Path | None) -> list[str]:
    """The command that runs a client's program, with what is installed in a folder or beside this Python."""
    if client.is_node:
        return ["node", str((NODE_FOLDER if environments is None else environments / "node") / client.program)]
    python = sys.executable if environments is None else str(environments / client.program / "bin" / "python")
    return [python, "-m", f"tests.clients.python.{client.program}"]


def install(client: Client, environments: Path) -> None:
    """Install a client into a folder: a virtual environment for each Python client, one folder for those of Node."""
    target = environments / ("node" if client.is_node else client.program)
    if not target.exists():
        if client.is_node:
            shutil.copytree(NODE_FOLDER, target, ignore=shutil.ignore_patterns("node_modules"))
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=target)
        else:
            _run([sys.executable, "-m", "venv", str(target)])
            if client.requirements:
                _run([str(target / "bin" / "python"), "-m", "pip", "install", "-q", *client.requirements])
    if client.is_node:
        for program in NODE_FOLDER.glob("*.mjs"):
            shutil.copy(program, target)
        if client.requirements and not (target / "node_modules" / client.requirements[0]).exists():
            _run(["npm", "install", "--no-save", "--no-audit", "--no-fund", *client.requirements], cwd=target)


def _run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=sys.stderr)
