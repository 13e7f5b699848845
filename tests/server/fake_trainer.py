"""A trainer process that trains nothing, but writes a job directory like the real one.

Run as ``python fake_trainer.py JOBDIR``. Extra hyperparameters of the job control it: ``fake_steps`` (steps an epoch),
``fake_seconds`` (a step), ``fake_end`` (``exception``, ``failed``, ``killed``), ``fake_stubborn`` (ignores SIGTERM).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from ftpipe.records.job import TrainingMetrics
from ftpipe.training.job_directory import JobDirectory, Progress
from ftpipe.training.metrics_csv import write_metrics


class FakeTrainer:
    """One run on one job directory."""

    def __init__(self, directory: JobDirectory) -> None:
        self.directory = directory
        self.spec = directory.read_spec()
        requested = self.spec.hyperparameters
        self.epochs = 3 if requested.get("n_epochs", "auto") == "auto" else int(requested["n_epochs"])
        self.steps_per_epoch = int(requested.get("fake_steps", 2))
        self.seconds = float(requested.get("fake_seconds", 0.02))
        self.end = requested.get("fake_end", "")
        self.total_steps = self.epochs * self.steps_per_epoch
        self.state_file = directory.path / "fake_state.json"
        self.pausing = False
        signal.signal(signal.SIGUSR1, self._pause)
        if requested.get("fake_stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _pause(self, *_: object) -> None:
        self.pausing = True

    def load_state(self) -> int:
        return int(json.loads(self.state_file.read_text())["step"]) if self.state_file.exists() else 0

    def save_state(self, step: int) -> None:
        temporary = self.state_file.with_name(f".fake_state.{os.getpid()}")
        temporary.write_text(json.dumps({"step": step}))
        temporary.replace(self.state_file)

    def write_progress(self, step: int, status: str = "running") -> None:
        resolved = {"n_epochs": self.epochs, "batch_size": 1, "learning_rate_multiplier": 1.0}
        finish = int(time.time() + (self.total_steps - step) * self.seconds)
        self.directory.write_progress(
            Progress(status, step, self.total_steps, step, finish, resolved, tokens_per_second=100.0)
        )

    def save_checkpoint(self, step: int) -> None:
        with self.directory.new_checkpoint(self.metrics(step)) as scratch:
            (scratch / "adapter_model.safetensors").write_bytes(b"fake")
        self.directory.prune_checkpoints(self.spec.keep_checkpoints)
        self.save_state(step)

    @staticmethod
    def metrics(step: int) -> TrainingMetrics:
        return TrainingMetrics(step=step, train_loss=1.0 / step, train_mean_token_accuracy=0.5)

    def run(self) -> int:
        """Take the steps that are left."""
        if self.directory.read_result() is not None:
            return 0
        self.append_line("starts.log")
        self.directory.remove_partial_files()
        done = self.load_state()
        self.directory.append_event("Fine-tuning job started" if not done else f"Resumed after step {done}")
        for step in range(done + 1, self.total_steps + 1):
            time.sleep(self.seconds)
            message = f"Step {step}/{self.total_steps}: training loss={1 / step:.2f}"
            self.directory.append_event(message, event_type="metrics", data={"step": step})
            self.write_progress(step)
            if self.end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.end == "exception":
                message = "out of paper"
                raise RuntimeError(message)
            if step % self.steps_per_epoch == 0:
                self.save_checkpoint(step)
            if self.pausing:
                self.save_state(step)
                self.write_progress(step, "paused")
                return 0
        self.finish()
        return 0

    def finish(self) -> None:
        """Write the metrics and, last, the result."""
        metrics = [self.metrics(step) for step in range(1, self.total_steps + 1)]
        write_metrics(self.directory.metrics_file, metrics)
        self.append_line("finished.log")
        failed = self.end == "failed"
        error = {"code": "invalid_training_file", "message": "nothing to learn", "param": "training_file"}
        self.directory.write_result(
            "failed" if failed else "succeeded",
            trained_tokens=self.total_steps,
            step=self.total_steps,
            error=error if failed else None,
        )

    def append_line(self, name: str) -> None:
        with (self.directory.path / name).open("a") as file:
            file.write(f"{os.getpid()}\n")


if __name__ == "__main__":
    sys.exit(FakeTrainer(JobDirectory(Path(sys.argv[1]))).run())
