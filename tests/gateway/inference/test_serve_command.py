"""``ftpipe serve --inference``, as a user types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from ftpipe.cli.inference_options import InferenceOptions, inference_settings
from ftpipe.errors import AuthenticationError, UsageError
from tests.cli.cli_runner import CliEnvironment
from tests.fakes.chat_host import SECONDS
from tests.fakes.vllm import BASE, InferenceHost
from tests.gateway.inference.conftest import wait_until
from tests.gateway.test_serve_command import ROOT, address_of

KEY = "sk-inference-0123456789"


@pytest.mark.slow
def test_serve_inference_answers_and_reports_its_state(tmp_path: Path, host: InferenceHost) -> None:
    """A process, OpenAI's own client, `serve status` and `doctor`; the key is in no file."""
    host.key = KEY
    environment = {**os.environ, "FTPIPE_HOME": str(tmp_path / "home"), "GPU_KEY": KEY, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ftpipe"]

    def run(*argv: str) -> str:
        done = subprocess.run(
            [*command, *argv], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    options = ["--port", "0", "--no-key", "--inference", host.url, "--inference-key-env", "GPU_KEY"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([*command, "serve", *options], stdout=out, stderr=out, env=environment, cwd=tmp_path)
    data_dir = tmp_path / "home" / "server"
    try:
        client = openai.OpenAI(base_url=address_of(data_dir, process), api_key="any", max_retries=0)
        answer = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
        assert (answer.model, answer.choices[0].message.content) == (BASE, f"answer of {BASE}")
        wait_until((data_dir / "inference.json").exists)
        assert f"{host.url}: ok, 0 adapters loaded" in run("serve", "status")
        assert f"{host.url} is ok" in run("doctor")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in (0, 143)
    assert f"{BASE} → {BASE} at {host.url}" in (tmp_path / "out").read_text(encoding="utf-8")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--inference", "{url}", "--upstream", "together"], "--inference and --upstream"),
        (["--inference", "gpu:8000"], "is not an http(s) URL"),
        (["--inference", "http://user:word@gpu"], "password or a query"),
        (["--inference", "{url}", "--inference-model", "a"], "is not BASE=NAME"),
        (["--inference", "{url}", "--inference-model", f"{BASE}=missing"], "has no model missing"),
        (["--inference", "{url}", "--inference-path", "a"], "is not FROM=TO"),
        (["--inference", "{url}", "--inference-key-env", "NOT_SET"], "NOT_SET is not set"),
        (["--inference", "{url}", "--precision", "int8"], "--precision is for answers on this machine"),
    ],
)
def test_serve_refuses_options_of_an_inference_server(
    cli: CliEnvironment, host: InferenceHost, argv: list[str], message: str
) -> None:
    """Before it listens."""
    ran = cli.run("serve", *(text.format(url=host.url) for text in argv))
    assert ran.code in (2, 4)
    assert message in ran.err


def test_serve_refuses_an_inference_server_that_cannot_be_used(cli: CliEnvironment, host: InferenceHost) -> None:
    """Each error names the address and the next step."""
    host.base = "org/other"
    ran = cli.run("serve", "--inference", host.url)
    assert ran.code == 2 and host.url in ran.err
    assert "org/other" in ran.err and f"--inference-model {BASE}=NAME" in ran.err
    host.loads_adapters = False
    ran = cli.run("serve", "--inference", host.url)
    assert host.url in ran.err and "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in ran.err
    host.key = "something"
    ran = cli.run("serve", "--inference", host.url)
    assert ran.code == 4 and "--inference-key-env" in ran.err


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(inference_models=("a=b",)),
        InferenceOptions(inference_paths=("/a=/b",)),
        InferenceOptions(inference_key_env="KEY"),
        InferenceOptions(inference_adapters=3),
    ],
)
def test_inference_options_need_a_url(options: InferenceOptions) -> None:
    with pytest.raises(UsageError, match="needs --inference") as raised:
        inference_settings(options, {})
    name = raised.value.message.split(" ")[0]
    assert name in ("--inference-model", "--inference-path", "--inference-key-env", "--inference-adapters")


def test_inference_settings_hide_the_key() -> None:
    options = InferenceOptions(inference="http://gpu:8000", inference_key_env="GPU_KEY")
    settings = inference_settings(options, {"GPU_KEY": KEY})
    assert settings is not None and settings.key == KEY
    assert KEY not in repr(settings)
    with pytest.raises(AuthenticationError, match="GPU_KEY"):
        inference_settings(options, {})
