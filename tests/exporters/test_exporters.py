"""Every tool gets parameters, losses, scores, lineage and report; a second export replaces the first."""

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
    resolved=Hyperparameters(n_epochs=3, batch_size=4, lora_r=8, target_modules=("q_proj", "v_proj")),
    created_at=1_795_000_000, aliases=("bot@best",),
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


def test_training_run_has_params_curves_scores_and_lineage() -> None:
    """Resolved hyperparameters replace requested ones; steps are in order; NaN is left out."""
    exported = training_run(MODEL, CURVE)
    assert exported.params["batch_size"] == 4
    assert exported.params["target_modules"] == "q_proj,v_proj"
    assert (exported.params["lora_r"], exported.params["base"], exported.params["seed"]) == (8, "base", 7)
    assert exported.curves == ((2, {"train_loss": 0.5, "valid_loss": 0.7}),)
    assert exported.scores == {"trained_tokens": 1200}
    assert (exported.tags["job"], exported.tags["dataset_sha256"], exported.tags["aliases"]) == (
        "ftjob-1",
        "d" * 64,
        "bot@best",
    )
    assert (
        exported.id == training_run(MODEL, ()).id != training_run(MODEL.model_copy(update={"job_id": "ftjob-2"}), ()).id
    )


def test_evaluation_runs_are_one_per_arm(tmp_path: Path) -> None:
    """Scores and differences have intervals; the verdict is a tag of the challenger."""
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
    """A tool to which the same run was exported twice."""
    tools: dict[str, Any] = {"wandb": FakeWandb(), "mlflow": FakeMlflow(), "trackio": FakeTrackio()}
    tool = tools[request.param]
    run = run_of(tmp_path)
    exporter = open_exporter(request.param, load=lambda _: tool)
    assert exporter.send(run, project="tickets") == exporter.send(run, project="tickets")
    return tool, run


def test_exporting_twice_stores_one_run(sent: tuple[Any, ExportedRun]) -> None:
    """With its curve, scores, lineage and report."""
    tool, run = sent
    if isinstance(tool, FakeWandb):
        [stored] = tool.runs.values()
        assert (stored.history, stored.artifacts, stored.finished) == (
            {2: {"train_loss": 0.5, "valid_loss": 0.7}},
            ["report.html"] * 2,
            2,
        )
        assert stored.summary == run.scores
        assert stored.config["lineage"]["job"] == "ftjob-1"
        assert (tool.init_arguments[0]["project"], tool.init_arguments[0]["settings"]["silent"]) == ("tickets", True)
    elif isinstance(tool, FakeMlflow):
        [stored] = tool.runs
        assert stored.data.params["batch_size"] == "4"
        assert stored.tags["ftpipe.job"] == "ftjob-1"
        assert [m.value for m in tool.metrics if m.key == "train_loss"] == [0.5]
        assert {m.key for m in tool.metrics} >= run.scores.keys()
        assert tool.experiments == {"tickets": "0"}
    else:
        [stored] = tool.stored.values()
        assert stored["steps"] == [(2, {"train_loss": 0.5, "valid_loss": 0.7}), (3, run.scores)]
        assert stored["config"]["lineage.job"] == "ftjob-1"
        assert stored["files"] == [f"{run.id}-report"]


def test_mlflow_exporter_splits_long_curves() -> None:
    """At most 1,000 metrics per request."""
    tool = FakeMlflow()
    long = training_run(MODEL, [TrainingMetrics(step=step, train_loss=1.0, valid_loss=1.0) for step in range(1200)])
    open_exporter("mlflow", load=lambda _: tool).send(long, project="p")
    assert tool.batches == [0, 1000, 1000, 401]


@pytest.mark.parametrize(
    ("name", "broken", "hint"),
    [
        ("wandb", FakeWandb(has_key=False), "WANDB_API_KEY"),
        ("mlflow", FakeMlflow(is_up=False), "MLFLOW_TRACKING_URI"),
        ("trackio", FakeTrackio(has_space=False), "TRACKIO_DIR"),
    ],
)
def test_exporter_errors_name_the_tool_and_a_hint(name: str, broken: Any, hint: str, tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(ProviderError) as caught:
        open_exporter(name, load=lambda _: broken).send(run_of(tmp_path), project="p")
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_open_exporter_names_the_missing_extra(name: str) -> None:

    def load(package: str) -> Any:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    with pytest.raises(MissingExtraError) as caught:
        open_exporter(name, load=load)
    assert (caught.value.hint, name in caught.value.message) == (f"pip install 'ftpipe[{name}]'", True)
    with pytest.raises(UsageError, match="no exporter"):
        open_exporter("clearml")
