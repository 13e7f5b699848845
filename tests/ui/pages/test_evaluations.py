"""The list of evaluations, the matrix, one evaluation with its items, and its report in place."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ftpipe.records.evaluation import Evaluation
from ftpipe.reports.evaluation.html import to_html
from ftpipe.ui.pages.evaluations import matrix_of
from ftpipe.ui.project import Project
from tests.reports.xss_payloads import PAYLOADS, hostile
from tests.ui import seeds
from tests.ui.conftest import SAME_ORIGIN, csrf_of
from tests.ui.html import active_parts


def evaluation_of(number: int = 1, **changes: object) -> Evaluation:
    """An evaluation of three arms with two items."""
    evaluation, _ = hostile("plain")
    values = {"id": f"eval-{number:012x}", "created_at": 1_795_000_000 + number, "data": "test.jsonl"}
    return evaluation.model_copy(update={**values, "gates": (), **changes})


def losing(evaluation: Evaluation) -> Evaluation:
    comparisons = tuple(one.model_copy(update={"verdict": "loss"}) for one in evaluation.comparisons)
    return evaluation.model_copy(update={"comparisons": comparisons})


def save(project: Project, evaluation: Evaluation) -> Path:
    """Save an evaluation as ``ftpipe evaluate`` does; returns its report."""
    project.registry.evaluations.save(evaluation)
    folder = project.state_dir / "evaluations"
    folder.mkdir(exist_ok=True)
    (folder / f"{evaluation.id}.json").write_text(evaluation.model_dump_json(), encoding="utf-8")
    report = folder / f"{evaluation.id}.html"
    report.write_text(to_html(evaluation), encoding="utf-8")
    return report


def test_evaluations_empty_says_how_to_start(client: TestClient) -> None:
    assert "Nothing was evaluated yet" in client.get("/evaluations").text


def test_evaluations_shows_regressions_first(client: TestClient, project: Project) -> None:
    """Though they are older."""
    save(project, losing(evaluation_of(1)))
    save(project, evaluation_of(2))
    text = client.get("/evaluations").text
    assert text.index("eval-000000000001") < text.index("eval-000000000002")
    assert "1 evaluation with a model that is worse" in text


def test_matrix_has_latest_score_of_each_model_and_dataset() -> None:
    first, second = evaluation_of(1), evaluation_of(2, data="other.jsonl", data_sha256="1" * 64)
    newest = evaluation_of(3)
    matrix = matrix_of([newest, second, first])
    assert matrix.datasets == [("test.jsonl", "0" * 64), ("other.jsonl", "1" * 64)]
    name, scores = matrix.rows[0]
    assert name == "plain a"
    assert [one.evaluation.id if one else None for one in scores] == [newest.id, second.id]


def test_evaluation_shows_items_that_got_worse(client: TestClient, project: Project) -> None:
    evaluation = evaluation_of()
    save(project, evaluation)
    text = client.get(f"/evaluations/{evaluation.id}").text
    assert "got worse (1)" in text
    assert "Line 2" in text, "the item that only the baseline answered"
    assert "Line 1" not in text
    improved = client.get(f"/evaluations/{evaluation.id}?show=improved").text
    assert "Line 1" in improved
    item = client.get(f"/evaluations/{evaluation.id}/items/{evaluation.outcomes[1].item.id}")
    assert item.status_code == 200
    assert "Expected" in item.text
    assert client.get(f"/evaluations/{evaluation.id}/items/none").status_code == 400


def test_evaluation_without_answers_still_shows_verdict(client: TestClient, project: Project) -> None:
    evaluation = evaluation_of()
    project.registry.evaluations.save(evaluation)
    text = client.get(f"/evaluations/{evaluation.id}").text
    assert "answers were deleted" in text
    assert "<iframe" not in text
    assert client.get(f"/evaluations/{evaluation.id}/report").status_code == 400


def test_report_is_sandboxed(client: TestClient, project: Project) -> None:
    """Even if somebody has written a script into the file."""
    evaluation = evaluation_of()
    report = save(project, evaluation)
    page = client.get(f"/evaluations/{evaluation.id}").text
    assert 'sandbox=""' in page
    answer = client.get(f"/evaluations/{evaluation.id}/report")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none';")
    assert "style-src 'sha256-" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'self'" in policy
    report.write_text("<script>alert(1)</script>", encoding="utf-8")
    policy = client.get(f"/evaluations/{evaluation.id}/report").headers["content-security-policy"]
    assert "style-src 'none'" in policy


def start(client: TestClient, project: Project, **changes: str) -> tuple[int, str]:
    """Send the form that starts an evaluation; status, and location or text."""
    file = next(one for one in project.datasets.files.all() if one.name == "test.jsonl")
    data = {"csrf": csrf_of(client), "data": file.id, "baseline": "", "limit": "", "gate": "", **changes}
    answer = client.post("/evaluations/start", data=data, headers=SAME_ORIGIN)
    return answer.status_code, answer.headers.get("location", answer.text)


@pytest.fixture
def started(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are started, and a dataset for them."""
    commands: list[list[str]] = []
    monkeypatch.setattr(type(project.commands), "start", lambda _self, words, *, title: commands.append(words))
    (project.folder / "test.jsonl").write_text("{}\n" * 12, encoding="utf-8")
    return commands


def test_start_runs_the_command(client: TestClient, project: Project, started: list[list[str]]) -> None:
    model = seeds.succeeded_run(project.registry).model
    assert model is not None
    assert model.id in client.get("/evaluations/start", params={"model": model.id}).text.replace("<wbr>", "")
    assert start(client, project, model=model.id, limit="5", gate="exact>=+0.03@95%") == (303, "/evaluations")
    path = project.folder / "test.jsonl"
    words = ["evaluate", f"--data={path}", "--limit=5", "--gate=exact>=+0.03@95%", "--", model.id]
    assert started == [words]
    assert start(client, project)[0] == 400, "no model"
    assert start(client, project, model=model.id, data="../../etc/passwd")[0] == 400
    assert start(client, project, model=model.id, limit="5; rm")[0] == 400
    assert len(started) == 1


def test_start_asks_before_hosted_models_are_paid(
    client: TestClient, project: Project, started: list[list[str]]
) -> None:
    model = seeds.succeeded_run(project.registry, provider="openai", endpoint="https://api.openai.com/v1").model
    assert model is not None
    status, text = start(client, project, model=model.id)
    assert (status, started) == (200, [])
    assert "up to 24 requests" in text
    assert "ftpipe evaluate" in text
    assert start(client, project, model=model.id, confirmed="yes")[0] == 303
    assert len(started) == 1


@pytest.mark.parametrize("name", ["eval-ffffffffffff", "..%2f..%2fregistry", "x"])
def test_evaluation_unknown(client: TestClient, name: str) -> None:
    assert client.get(f"/evaluations/{name}").status_code in (400, 404)
    assert client.get(f"/evaluations/{name}/report").status_code in (400, 404)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_evaluations_hostile_text_is_inert(client: TestClient, project: Project, payload: str) -> None:
    evaluation, _ = hostile(payload.encode("utf-8", "replace").decode())
    save(project, evaluation)
    item = evaluation.outcomes[0].item.id
    for path in ("", f"/{evaluation.id}", f"/{evaluation.id}?show=all", f"/{evaluation.id}/items/{item}"):
        answer = client.get(f"/evaluations{path}")
        assert answer.status_code == 200
        assert active_parts(answer.text) == []
