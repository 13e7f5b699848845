"""``python -m ftpipe`` as a user starts it, in a folder of its own that talks to the fault endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.environment import KEY, LINE
from tests.faults.fork_server import TABLE


class SubprocessCli:
    """A user's folder and the environment of its commands."""

    def __init__(self, folder: Path, base_url: str, *, table: str = TABLE, key: str = KEY) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "train.jsonl").write_bytes(LINE * 12)
        (folder / "ftpipe.toml").write_text(table.format(base_url=base_url))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FTPIPE_", "OPENAI_"))}
        self.env = {**inherited, "X_API_KEY": key, "FTPIPE_HOME": str(folder / "home"), "NO_COLOR": "1"}
        self.env["FTPIPE_TRUSTED_HOSTS"] = base_url.removesuffix("/v1")
        self.env["PYTHONPATH"] = str(Path(__file__).parents[2])

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "ftpipe", *argv],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*argv)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)
