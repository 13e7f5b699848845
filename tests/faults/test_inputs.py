"""Faults without a job: hosts that do not resolve, network file systems, hostile configuration and price files."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpipe.catalog.price_file import MAX_PRICE
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.config import load
from ftpipe.errors import ConfigError, ConnectionFailedError, CostLimitError, LocalStateError
from ftpipe.pipeline.preflight import budget_blocker
from ftpipe.records import Method
from ftpipe.registry import open_registry
from ftpipe.reports.dataset_html import html
from ftpipe.stages.count import cost_by_model, count
from ftpipe.stages.validate import validate
from tests.examples import examples
from tests.fakes.records import cost_of
from tests.faults.environment import FaultEnvironment
from tests.reports.xss_payloads import PAYLOADS

SERVER = next(
    (path for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/sftp-server") if Path(path).exists()), ""
)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1:9"], ids=["unresolvable", "refused"])
def test_train_unreachable_host_is_reported_once_and_retried(environment: FaultEnvironment, host: str) -> None:
    """Row 4: after the first failed attempt the observer is called, once; in the end exit 5, and nothing was sent."""
    environment.base_url = f"http://{host}/v1"
    with pytest.raises(ConnectionFailedError) as caught:
        environment.train()
    assert (caught.value.exit_code, caught.value.paid) == (5, "no")
    assert environment.recorded.messages == [f"cannot reach {host}, trying again …"]
    environment.base_url = environment.endpoint.base_url
    assert environment.resume().state == "registered"


@pytest.fixture
def network_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is mounted over SFTP, with a server on a pipe instead of a network."""
    there, here, server = tmp_path / "there", tmp_path / "here", tmp_path / "server"
    for folder in (there, here):
        folder.mkdir()
    server.write_text(f"#!/bin/sh\nexec {SERVER}\n")
    server.chmod(0o700)
    mounted = subprocess.run(
        ["sshfs", "-o", f"ssh_command={server}", f"host:{there}", here], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no FUSE here: {mounted.stderr.strip()}")
    yield here
    subprocess.run(["fusermount3", "-u", here], check=True)


@pytest.mark.skipif(not (SERVER and shutil.which("sshfs")), reason="needs sshfs and openssh-sftp-server")
def test_registry_refuses_network_file_system(network_folder: Path) -> None:
    """Row 19: exit 6 before a database is made there, and two ways out."""
    with pytest.raises(LocalStateError, match=r"network file system \(fuse\.sshfs\)") as caught:
        open_registry(network_folder / ".ftpipe" / "registry.db")
    assert caught.value.exit_code == 6
    assert "postgresql://" in caught.value.hint
    assert list((network_folder / ".ftpipe").iterdir()) == []


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "!!python/object/apply:os.system ['touch owned']", "key: ${HOME}", "a = " + "{b=" * 50_000],
    ids=["billion laughs", "python object", "expansion", "deep"],
)
def test_config_hostile_file_is_refused_at_once(text: str) -> None:
    """Rows 33, 34: there is no YAML and no code in a configuration; what is not TOML is one error, in no time."""
    path = Path("ftpipe.yaml")
    path.write_text(text)
    started_at = time.monotonic()
    with pytest.raises(ConfigError):
        load(path, env={})
    assert time.monotonic() - started_at < 1
    assert not Path("owned").exists()


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.datetimes()
TABLES = st.dictionaries(st.sampled_from(["training", "as_of", "source", "currency", "more"]), VALUES, max_size=5)


@settings(max_examples=examples(50, 200))
@given(model=st.text(max_size=12), value=VALUES | TABLES)
def test_price_table_accepts_finite_prices_only(model: str, value: Any) -> None:
    """Row 49: whatever stands in the table: a finite, bounded, dated price, or an error with an example."""
    try:
        row = PriceTable.load({model: value}, target="none").row(model)
    except ConfigError as error:
        assert "[prices." in error.hint
        return
    assert row is not None
    assert 0 <= row.training <= MAX_PRICE
    assert isinstance(row.age_days(dt.date(2026, 11, 24)), int | None)


@pytest.mark.parametrize("high", [math.nan, math.inf, None])
def test_budget_blocker_refuses_estimate_that_is_not_a_number(high: float | None) -> None:
    """Row 49: a broken price never slips through ``--max-cost``."""
    assert isinstance(budget_blocker(cost_of(high), 1e12), CostLimitError)


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("starlette", "from ftpipe.cli import run; run(['train', 'train.jsonl'])", "pip install 'ftpipe[local]'"),
        ("psycopg", "from ftpipe.cli import run; run(['models', 'list'])", "pip install 'ftpipe[postgres]'"),
        ("openai", "from ftpipe.cli import run; run(['jobs', 'list', '--provider', 'openai'])", "pip install"),
        ("tenacity", "from ftpipe.cli import run; run(['jobs', 'list', '--provider', 'openai'])", "pip install"),
    ],
)
def test_missing_package_prints_install_command(missing: str, code: str, message: str) -> None:
    """Row 50: exit 2, the package's name, what to type; no traceback."""
    Path("train.jsonl").write_bytes(
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n' * 12
    )
    env = {**os.environ, "OPENAI_API_KEY": "sk-0123456789"}
    if missing == "psycopg":
        env["FTPIPE_REGISTRY"] = "postgresql://127.0.0.1/x"
    script = f"import sys; sys.modules[{missing!r}] = None; {code}"
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 2, ran.stderr
    assert missing in ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_dataset_report_runs_no_script_in_browser(tmp_path: Path) -> None:
    """Row 37: every payload in roles, contents, keys, names and labels; the page's own script alone may run."""
    rows = [
        {
            "messages": [
                {"role": payload, "content": payload, payload: payload},
                {"role": "user", "content": f"{payload} {number}", "name": payload},
                {"role": "assistant", "content": payload[:30]},
            ],
            payload: 1,
        }
        for number, payload in enumerate(PAYLOADS)
    ]
    plain = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": p[:30]}]} for p in PAYLOADS
    ]
    data = tmp_path / "<img src=x onerror=document.title='PWNED'>.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *plain]), encoding="utf-8")
    report = count(validate(data), model="gpt-4.1-mini-2025-04-14", epochs=1)
    assert report.method == Method.SUPERVISED
    page = tmp_path / "page.html"
    page.write_text(html(report, cost_by_model(report)), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--dump-dom"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    titles = re.findall(r"<title>(.*?)</title>", rendered.stdout, re.DOTALL)
    assert titles
    assert not titles[0].startswith("PWNED")
    assert "Content Security Policy" not in rendered.stderr
    assert rendered.stdout.count("<script") == 1
