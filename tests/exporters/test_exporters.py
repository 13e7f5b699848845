"""Every tool gets parameters, losses by step, scores with intervals, lineage and page; sent twice it is there once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import MissingExtraError, ProviderError, UsageError
from ftpipe.exporters import EXPORTERS, open_exporter
from ftpipe.exporters.run import ExportedRun, evaluation_runs, training_run
from ftpipe.records import Hyperparameters, Model, TrainingMetrics
from tests.evaluation.test_evaluate import run as evaluated
from tests.exporters.fakes import FakeMlflow, FakeTrackio, FakeWandb

MODEL = Model(
    id="ft:base:org::1", base="base", provider="local", endpoint="here", job_id="ftjob-1", file_id="file-1",
    dataset_sha256="d" * 64, run_id="run-1", requested=Hyperparameters(n_epochs=3), seed=7, trained_tokens=1200,
    resolved=Hyperparameters(n_epochs=3, batch_size=4, extra={"lora_r": 8}), created_at=1_795_000_000,
    aliases=("bot@best",),
)  # fmt: skip
CURVE = [
    TrainingMetrics(step=2, train_loss=0.5, valid_loss=0.7),
    TrainingMetrics(step=1, train_loss=float("nan"), total_steps=2),
]


def run_of(tmp_path: Path) -> ExportedRun:
    """The tuned arm of an evaluation with its page."""
    page = tmp_path / "report.html"
    page.write_text("<p>verdict")
    return evaluation_runs(evaluated(), {"tuned": MODEL}, {"tuned": CURVE}, page)[1]


def test_a_job_is_told_with_what_was_asked_and_what_came_of_it() -> None:
    """Resolved hyperparameters over asked ones; steps in order; a loss that is no number is left out."""
    told = training_run(MODEL, CURVE)
    assert told.params["batch_size"] == 4
    assert (told.params["lora_r"], told.params["base"], told.params["seed"]) == (8, "base", 7)
    assert told.curves == ((2, {"train_loss": 0.5, "valid_loss": 0.7}),)
    assert told.scores == {"trained_tokens": 1200}
    assert (told.tags["job"], told.tags["dataset_sha256"], told.tags["aliases"]) == ("ftjob-1", "d" * 64, "bot@best")
    assert told.id == training_run(MODEL, ()).id != training_run(MODEL.model_copy(update={"job_id": "ftjob-2"}), ()).id


def test_an_evaluation_is_a_run_for_each_arm(tmp_path: Path) -> None:
    """Scores and differences with their intervals; the verdict is a tag of the challenger."""
    base, tuned = evaluation_runs(evaluated(), {"tuned": MODEL}, {}, None)
    assert base.group == tuned.group
    assert base.id != tuned.id
    assert (base.tags["arm"], tuned.tags["arm"], tuned.tags["verdict"]) == ("baseline", "candidate", "win")
    assert "verdict" not in base.tags
    assert tuned.scores["eval/normalized"] == pytest.approx(0.9)
    low, high = tuned.scores["eval/normalized_low"], tuned.scores["eval/normalized_high"]
    assert low < 0.9 < high
    assert tuned.scores["difference/normalized"] == pytest.approx(34 / 60)
    assert tuned.scores["difference/normalized_low"] > 0 > tuned.scores["difference/normalized_p"] - 0.05
    assert not any(name.startswith("difference/") for name in base.scores)
    assert tuned.params["sampling.temperature"] == 0


@pytest.fixture(params=["wandb", "mlflow", "trackio"])
def sent(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ExportedRun]:
    """A tool that was sent the same run twice."""
    tools: dict[str, Any] = {"wandb": FakeWandb(), "mlflow": FakeMlflow(), "trackio": FakeTrackio()}
    tool = tools[request.param]
    run = run_of(tmp_path)
    exporter = open_exporter(request.param, load=lambda _: tool)
    assert exporter.send(run, project="tickets") == exporter.send(run, project="tickets")
    return tool, run


def test_what_is_sent_twice_is_there_once(sent: tuple[Any, ExportedRun]) -> None:
    """With its curve, its scores, its lineage and its page, in each tool's own way."""
    tool, run = sent
    if isinstance(tool, FakeWandb):
        [there] = tool.runs.values()
        assert (there.history, there.artifacts, there.finished) == (
            {2: {"train_loss": 0.5, "valid_loss": 0.7}},
            ["report.html"] * 2,
            2,
        )
        assert there.summary == run.scores
        assert there.config["lineage"]["job"] == "ftjob-1"
        assert (tool.asked[0]["project"], tool.asked[0]["settings"]["silent"]) == ("tickets", True)
    elif isinstance(tool, FakeMlflow):
        [there] = tool.runs
        assert there.data.params["batch_size"] == "4"
        assert there.tags["ftpipe.job"] == "ftjob-1"
        assert [m.value for m in tool.metrics if m.key == "train_loss"] == [0.5]
        assert {m.key for m in tool.metrics} >= run.scores.keys()
        assert tool.experiments == {"tickets": "0"}
    else:
        [there] = tool.stored.values()
        assert there["steps"] == [(2, {"train_loss": 0.5, "valid_loss": 0.7}), (3, run.scores)]
        assert there["config"]["lineage.job"] == "ftjob-1"
        assert there["files"] == [f"{run.id}-report"]


def test_long_curves_go_in_batches_that_mlflow_takes() -> None:
    """A thousand metrics in one request at most."""
    tool = FakeMlflow()
    long = training_run(MODEL, [TrainingMetrics(step=step, train_loss=1.0, valid_loss=1.0) for step in range(1200)])
    open_exporter("mlflow", load=lambda _: tool).send(long, project="p")
    assert tool.batches == [0, 1000, 1000, 401]


@pytest.mark.parametrize(
    ("name", "broken", "hint"),
    [
        ("wandb", FakeWandb(has_key=False), "WANDB_API_KEY"),
        ("mlflow", FakeMlflow(is_up=False), "MLFLOW_TRACKING_URI"),
        ("trackio", FakeTrackio(has_room=False), "TRACKIO_DIR"),
    ],
)
def test_a_tool_that_does_not_take_it_is_named_with_the_remedy(
    name: str, broken: Any, hint: str, tmp_path: Path
) -> None:
    """In one line, under the tool's own names."""
    with pytest.raises(ProviderError) as refused:
        open_exporter(name, load=lambda _: broken).send(run_of(tmp_path), project="p")
    assert hint in refused.value.hint
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_a_missing_package_names_its_extra(name: str) -> None:
    """Nothing is imported before that."""

    def load(package: str) -> Any:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    with pytest.raises(MissingExtraError) as refused:
        open_exporter(name, load=load)
    assert (refused.value.hint, name in refused.value.message) == (f"pip install 'ftpipe[{name}]'", True)
    with pytest.raises(UsageError, match="no exporter"):
        open_exporter("clearml")
