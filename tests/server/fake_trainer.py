"""A trainer that trains nothing, but keeps the job folder's contract to the letter: a real process for the tests.

Run as ``python fake_trainer.py JOBDIR``. The job's extra hyperparameters steer it: ``fake_steps`` (steps an epoch),
``fake_seconds`` (a step), ``fake_end`` (``exception``, ``failed``), ``fake_stubborn`` (ignores SIGTERM).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any


class FakeTrainer:
    """One run on one job folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        asked = self.spec["hyperparameters"]
        self.epochs = 3 if asked.get("n_epochs", "auto") == "auto" else int(asked["n_epochs"])
        self.per_epoch = int(asked.get("fake_steps", 2))
        self.seconds = float(asked.get("fake_seconds", 0.02))
        self.end = asked.get("fake_end", "")
        self.total = self.epochs * self.per_epoch
        self.pausing = False
        signal.signal(signal.SIGUSR1, self._pause)
        if asked.get("fake_stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _pause(self, *_: object) -> None:
        self.pausing = True

    def replace(self, name: str, value: dict[str, Any]) -> None:
        """Replace a JSON file in one step."""
        aside = self.folder / f".{name}.{os.getpid()}"
        aside.write_text(json.dumps(value))
        aside.replace(self.folder / name)

    def event(self, kind: str, message: str, data: dict[str, Any] | None = None) -> None:
        """Append one event."""
        line = {"created_at": int(time.time()), "level": "info", "type": kind, "message": message, "data": data or {}}
        with (self.folder / "events.ndjson").open("a") as handle:
            handle.write(json.dumps(line) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def progress(self, step: int, status: str = "running") -> None:
        """Say how far it has come."""
        resolved = {"n_epochs": self.epochs, "batch_size": 1, "learning_rate_multiplier": 1.0}
        left = int(time.time() + (self.total - step) * self.seconds)
        value = {"status": status, "pid": os.getpid(), "step": step, "total_steps": self.total, "trained_tokens": step}
        value |= {"estimated_finish": left, "hyperparameters": resolved, "tokens_per_second": 100.0}
        self.replace("progress.json", value)

    def checkpoint(self, step: int) -> None:
        """Write a checkpoint aside and give it its name."""
        aside = self.folder / "checkpoints" / f".step-{step}.{os.getpid()}"
        aside.mkdir(parents=True, exist_ok=True)
        (aside / "adapter_model.safetensors").write_bytes(b"fake")
        metrics = {"step": step, "train_loss": 1.0 / step, "train_mean_token_accuracy": 0.5}
        (aside / "manifest.json").write_text(json.dumps({"files": {}, "metrics": metrics}))
        target = self.folder / "checkpoints" / f"step-{step}"
        if not target.exists():
            aside.rename(target)
        self.replace("resume.json", {"step": step})

    def run(self) -> int:
        """Go through the steps that are left."""
        if (self.folder / "result.json").exists():
            return 0
        with (self.folder / "starts.log").open("a") as handle:
            handle.write(f"{os.getpid()}\n")
        for half in (self.folder / "checkpoints").glob(".step-*"):
            shutil.rmtree(half)
        resume = self.folder / "resume.json"
        done = json.loads(resume.read_text())["step"] if resume.exists() else 0
        self.event("message", "Fine-tuning job started" if not done else f"Goes on after step {done}")
        for step in range(done + 1, self.total + 1):
            time.sleep(self.seconds)
            self.event("metrics", f"Step {step}/{self.total}: training loss={1 / step:.2f}", {"step": step})
            self.progress(step)
            if self.end == "exception":
                message = "out of paper"
                raise RuntimeError(message)
            if step % self.per_epoch == 0:
                self.checkpoint(step)
            if self.pausing:
                self.replace("resume.json", {"step": step})
                self.progress(step, "paused")
                return 0
        self.finish()
        return 0

    def finish(self) -> None:
        """Write the metrics and, last, the result."""
        rows = ["step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"]
        rows += [f"{step},{1 / step},0.5,," for step in range(1, self.total + 1)]
        (self.folder / "metrics.csv").write_text("\n".join(rows) + "\n")
        with (self.folder / "finished.log").open("a") as handle:
            handle.write(f"{os.getpid()}\n")
        error = {"code": "invalid_training_file", "message": "nothing to learn", "param": "training_file"}
        failed = self.end == "failed"
        result: dict[str, Any] = {"status": "failed" if failed else "succeeded", "error": error if failed else None}
        result |= {"trained_tokens": self.total, "final_step": self.total, "finished_at": int(time.time())}
        self.replace("result.json", result)


if __name__ == "__main__":
    sys.exit(FakeTrainer(Path(sys.argv[1])).run())
