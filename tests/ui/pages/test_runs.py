"""The list of runs, one run, its curves and stream, and what changes a job."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from ftpipe.providers.provider import Provider
from ftpipe.records import Checkpoint, Event, TrainingMetrics
from ftpipe.records.job import PAUSE_REQUESTED
from ftpipe.registry import Registry
from ftpipe.registry.run_search import RunFilter, search_runs
from ftpipe.ui.pages.runs import RunChanges
from ftpipe.ui.project import Project
from tests.fakes.openai_client import FakeOpenAI
from tests.fakes.records import provider_over
from tests.reports.xss_payloads import PAYLOADS
from tests.ui import seeds
from tests.ui.conftest import SAME_ORIGIN, csrf_of
from tests.ui.html import active_parts


def names_in(html: str) -> list[str]:
    return re.findall(r'<tr id="(run-[0-9a-f]+)"', html)


def test_runs_empty_says_how_to_start(client: TestClient) -> None:
    text = client.get("/runs").text
    assert "There is no run yet" in text
    assert "ftpipe train" in text


def test_runs_shows_state_curve_losses_and_cost(client: TestClient, registry: Registry) -> None:
    seeds.succeeded_run(registry)
    text = client.get("/runs").text
    assert all(part in text for part in ("support-1", "succeeded", "30/30", "<polyline", "0.7842", "1.25 USD"))


def test_runs_filters_by_state_and_text(client: TestClient, registry: Registry) -> None:
    seeds.succeeded_run(registry, 1)
    for number, status in ((2, "running"), (3, "failed"), (4, "paused"), (5, "cancelled")):
        seeds.add_run(registry, seeds.run_of(number), seeds.job_of(seeds.run_of(number), status), steps=2)
    seeds.add_run(registry, seeds.run_of(6, suffix='100%_"odd"', state="prepared"))
    ids = {number: f"run-{number:012x}" for number in range(1, 7)}

    def shown(**query: str) -> list[str]:
        return names_in(client.get("/runs", params=query).text)

    assert shown() == [ids[number] for number in (6, 5, 4, 3, 2, 1)]
    assert shown(state="running") == [ids[4], ids[2]]
    assert shown(state="succeeded") == [ids[1]]
    assert shown(state="failed") == [ids[3]]
    assert shown(state="cancelled") == [ids[5]]
    assert shown(state="not started") == [ids[6]]
    assert shown(q="SUPPORT-3") == [ids[3]]
    assert shown(q="train-4.jsonl") == [ids[4]]
    assert shown(q='0%_"odd') == [ids[6]]
    assert shown(q="ftjob-000000000002") == [ids[2]]
    assert shown(q="hyperparameters") == [], "the names of fields are not searched"
    assert "No run matches" in client.get("/runs", params={"q": "nothing of that"}).text


def test_runs_pages(client: TestClient, registry: Registry) -> None:
    seeds.add_many_runs(registry, 120)
    first = client.get("/runs")
    assert len(names_in(first.text)) == 50
    assert "page=2" in first.text
    assert len(names_in(client.get("/runs?page=3").text)) == 20
    assert client.get("/runs?page=99").status_code == 200
    assert client.get("/runs?page=-1").status_code == 200


def test_runs_part_is_the_table_alone(client: TestClient, registry: Registry) -> None:
    seeds.add_run(registry, seeds.run_of(), seeds.job_of(seeds.run_of()), steps=3)
    text = client.get("/runs?part=table").text
    assert text.startswith("<section")
    assert 'hx-trigger="every 4s"' in text, "an open run is brought up to date"


def test_run_of_reinforcement_shows_rewards(client: TestClient, registry: Registry) -> None:
    """In the list, in its facts, charts and checkpoints; the best reward is the highest one."""
    run = seeds.run_of()
    metrics = TrainingMetrics(step=20, train_loss=0.001, train_mean_reward=0.5, full_valid_mean_reward=0.9)
    checkpoint = Checkpoint(id="c1", created_at=1, step=20, model="ft:x:ckpt-step-20", metrics=metrics)
    model = seeds.model_of(run, metrics=metrics, checkpoints=(checkpoint,))
    seeds.add_run(registry, run, seeds.job_of(run, "succeeded"), model=model, has_rewards=True)
    row = client.get("/runs").text
    assert 'data-label="valid reward">0.8000 <small class="soft">reward</small>' in row
    assert 'data-label="best">0.9000<' in row
    page = client.get(f"/runs/{run.id}").text
    assert "<dt>Train mean reward</dt><dd>0.7500</dd>" in page
    assert '<dt>Validation mean reward</dt><dd>0.8000 <small class="soft">best 0.9000</small></dd>' in page
    assert "<dt>KL</dt><dd>0.0600</dd>" in page
    assert "<dt>Completion tokens mean</dt>" in page
    assert "loss</dt>" not in page
    charts = re.findall(r'<h2 id="chart-(\w+)">([^<]+)</h2>', page)
    assert charts[0] == ("reward", "Reward")
    assert {("kl", "KL divergence"), ("tokens", "Tokens of an answer")} <= set(charts)
    assert "The validation reward was highest at step 20: 0.9000." in page
    assert "valid reward</th>" in page
    assert "valid loss" not in page
    points = client.get(f"/runs/{run.id}/points", params={"group": "reward"}).json()
    assert [one["label"] for one in points["series"]] == ["train", "full validation"]
    model_page = client.get("/models/show", params={"name": model.id, "endpoint": model.endpoint}).text
    assert "valid reward</th>" in model_page


def test_runs_list_leaves_slow_curves_for_later(
    client: TestClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds.succeeded_run(registry)
    monkeypatch.setattr("ftpipe.ui.run_view.SUMMARY_BUDGET_SECONDS", -1.0)
    text = client.get("/runs").text
    assert "/row" in text
    assert "<polyline" not in text
    row = client.get("/runs/run-000000000001/row").text
    assert row.startswith("<tr")
    assert "<polyline" in row


@pytest.mark.slow
def test_runs_10_000_need_no_pause(client: TestClient, registry: Registry) -> None:
    """A page, a search and a filter each take less than a second, on a machine that does something else as well."""
    seeds.add_many_runs(registry, 10_000)
    client.get("/runs")
    for query in ("", "?q=support-99", "?state=failed&page=20", "?q=nothing-of-that"):
        started = time.process_time()
        assert client.get(f"/runs{query}").status_code == 200
        assert time.process_time() - started < 1.0
    assert search_runs(registry.engine, state=RunFilter.FAILED).total == 1428


@pytest.mark.slow
def test_run_of_100_000_steps_opens_in_a_second(client: TestClient, project: Project) -> None:
    run = seeds.run_of()
    job = seeds.job_of(run)
    seeds.add_run(project.registry, run, job, steps=0)
    seeds.add_many_steps(project.registry, job, 100_000)
    started = time.process_time()
    page = client.get(f"/runs/{run.id}")
    data = client.get(f"/runs/{run.id}/points?group=loss")
    assert time.process_time() - started < 2.0, "both, of which the curve is read once"
    assert "100,000" in page.text
    assert len(data.content) < 300_000
    started = time.process_time()
    client.get(f"/runs/{run.id}")
    assert time.process_time() - started < 0.5


def test_run_shows_everything_of_it(client: TestClient, registry: Registry) -> None:
    run = seeds.succeeded_run(registry)
    registry.models.set_alias("support@production", "ft:smollm2-135m-instruct:support-1:000001")
    text = client.get(f"/runs/{run.id}").text
    for part in (
        "model registered", "learning rate", "0.0002", "Training started", "data/<wbr>", "abababababab", "ftjob-",
        "support@production", "estimated", "1 min 30 s", "ckpt-step-20", "lowest at step 30", "Seed",
    ):  # fmt: skip
        assert part.replace("<wbr>", "") in text.replace("<wbr>", ""), part
    assert "hx-sse:connect" not in text, "nothing changes any more"


def test_run_without_job_can_be_continued(client: TestClient, registry: Registry) -> None:
    run = seeds.add_run(registry, seeds.run_of(state="prepared"))
    text = client.get(f"/runs/{run.id}").text
    assert "not started" in text
    assert f'action="/runs/{run.id}/continue"' in text


def test_run_that_is_being_started_is_not_continued(
    client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = seeds.add_run(project.registry, seeds.run_of(state="prepared"))
    lines = [f"ftpipe train --yes --provider local {run.spec.data}", "ftpipe train other.jsonl"]

    def recent(is_wanted: Callable[[Sequence[str]], bool], *, limit: int) -> list[SimpleNamespace]:
        found = [line for line in lines[:limit] if is_wanted(line.split())]
        return [SimpleNamespace(is_running=True, error=None, title="x") for _ in found]

    monkeypatch.setattr(project.commands, "recent", recent)
    text = client.get(f"/runs/{run.id}").text
    assert ">starting<" in text
    assert "/continue" not in text
    del lines[0]
    assert "/continue" in client.get(f"/runs/{run.id}").text


def test_run_without_a_step_says_what_it_does_and_has_no_chart(client: TestClient, project: Project) -> None:
    run = seeds.add_run(project.registry, seeds.run_of(), seeds.job_of(seeds.run_of()), steps=0)
    text = client.get(f"/runs/{run.id}").text
    assert "<b>Training started</b>" in text
    assert re.findall(r'<figure class="chart"( hidden)?>', text) == [" hidden"] * text.count("<figure")
    changes = RunChanges(FakeRequest(client, project), project, run.id, compare=[])  # type: ignore[arg-type]
    assert [event.name for event in changes.events()] == [""]
    assert run.job is not None
    project.registry.jobs.save_events(run.job, [seeds.metric_event(1)])
    text = client.get(f"/runs/{run.id}").text
    assert "<b>Training started</b>" not in text
    assert '<figure class="chart">' in text
    assert [event.name for event in changes.events()] == ["points", ""]


def test_queued_run_says_what_it_waits_for(client: TestClient, registry: Registry) -> None:
    seeds.add_run(registry, seeds.run_of(1), seeds.job_of(seeds.run_of(1)), steps=1)
    seeds.add_run(registry, seeds.run_of(2), seeds.job_of(seeds.run_of(2), "queued"), steps=0)
    run = seeds.add_run(registry, seeds.run_of(3), seeds.job_of(seeds.run_of(3), "queued"), steps=0)
    text = client.get(f"/runs/{run.id}").text
    assert "It waits for support-1, which trains now. Of the runs that wait, 1 began earlier." in text
    assert "Time left" not in text
    assert '<li class="waiting" aria-current="step">training' in text


def test_pause_is_seen_at_once(client: TestClient, registry: Registry) -> None:
    run = seeds.add_run(registry, seeds.run_of(), seeds.job_of(seeds.run_of()), steps=3)
    assert f'action="/runs/{run.id}/pause"' in client.get(f"/runs/{run.id}").text
    assert run.job is not None
    event = Event(id="ftevent-pause", created_at=seeds.STARTED + 9, level="info", message=PAUSE_REQUESTED)
    registry.jobs.save_events(run.job, [event, seeds.metric_event(4)])
    text = client.get(f"/runs/{run.id}").text
    assert f"<b>{PAUSE_REQUESTED}</b>" in text
    assert ">pausing<" in text
    assert f'action="/runs/{run.id}/pause"' not in text
    paused = run.job.model_copy(update={"status": "paused"})
    registry.jobs.save(paused, run_id=run.id)
    text = client.get(f"/runs/{run.id}").text
    assert "Time left" not in text
    assert f"<b>{PAUSE_REQUESTED}</b>" not in text
    assert f'action="/runs/{run.id}/resume"' in text


def test_run_that_failed_says_why(client: TestClient, registry: Registry) -> None:
    run = seeds.run_of()
    error = {"code": "exceeded_quota", "message": "You exceeded your <b>quota</b>"}
    seeds.add_run(registry, run, seeds.job_of(run, "failed", error=error), steps=1)
    text = client.get(f"/runs/{run.id}").text
    assert "You exceeded your &lt;b&gt;quota&lt;/b&gt;" in text


def test_run_unknown(client: TestClient) -> None:
    assert client.get("/runs/run-ffffffffffff").status_code == 400
    assert "no such run" in client.get("/runs/run-ffffffffffff").text


def test_points_has_curves_epochs_and_checkpoints(client: TestClient, registry: Registry) -> None:
    run = seeds.succeeded_run(registry)
    data = client.get(f"/runs/{run.id}/points").json()
    assert [one["label"] for one in data["series"]] == ["train", "validation"]
    assert (data["steps"][0], data["steps"][-1], data["total"]) == (1, 30, 30)
    assert (data["epochs"], data["checkpoints"]) == ([10.0, 20.0], [20])
    assert [value for value in data["values"][1] if value is not None] == data["values"][1][9::10]
    part = client.get(f"/runs/{run.id}/points?start=5&end=9").json()
    assert part["steps"] == [5, 6, 7, 8, 9]
    assert client.get(f"/runs/{run.id}/points?group=nothing").status_code == 400


def test_points_lay_runs_over_each_other(client: TestClient, registry: Registry) -> None:
    first, second = seeds.succeeded_run(registry, 1), seeds.succeeded_run(registry, 2)
    chosen = client.get("/runs/compare", params={"compare": [first.id, second.id]})
    assert chosen.headers["location"] == f"/runs/{first.id}?compare={second.id}"
    data = client.get(f"/runs/{first.id}/points?compare={second.id},{first.id},run-unknown").json()
    assert [one["run"] for one in data["series"]] == [0, 0, 1, 1]
    assert data["series"][2]["label"] == "support-2: train"
    assert "support-2" in client.get(chosen.headers["location"]).text
    assert client.get("/runs/compare").status_code == 400


def test_values_pages(client: TestClient, registry: Registry) -> None:
    run = seeds.add_run(registry, seeds.run_of(), seeds.job_of(seeds.run_of()), steps=150)
    assert "2 of 2" in client.get(f"/runs/{run.id}/values?page=2").text
    assert client.get(f"/runs/{run.id}/values?page=2").text.count("<tr>") == 51
    assert client.get(f"/runs/{run.id}/values?page=9").status_code == 200


class FakeRequest:
    """What rendering needs of a request."""

    def __init__(self, client: TestClient, project: Project) -> None:
        self.scope = {"path": "/runs/x/stream", "root_path": ""}
        self.headers: dict[str, str] = {}
        self.query_params: dict[str, str] = {}
        self.path_params = {"run": "run-000000000001"}
        self.state = type("State", (), {"project": project, "session": None})()


def test_stream_tells_only_what_has_changed(client: TestClient, project: Project) -> None:
    run = seeds.run_of()
    job = seeds.job_of(run)
    seeds.add_run(project.registry, run, job, steps=3)
    changes = RunChanges(FakeRequest(client, project), project, run.id, compare=[])  # type: ignore[arg-type]
    first = list(changes.events())
    assert [event.name for event in first] == ["points", ""]
    assert json.loads(first[0].data)["loss"]["steps"] == [1, 2, 3]
    assert list(changes.events()) == []
    project.registry.jobs.save_events(job, [seeds.metric_event(4)])
    second = list(changes.events())
    assert json.loads(second[0].data)["loss"]["steps"] == [1, 2, 3, 4]
    assert "hx-partial" in second[1].data
    done = project.registry.runs.register(seeds.model_of(run), run.model_copy(update={"job": job}), price_row="")
    assert done.model is not None
    assert [(event.name, event.is_last) for event in changes.events()] == [("", False), ("done", True)]


def test_stream_ends_with_a_run_that_has_ended(client: TestClient, registry: Registry) -> None:
    run = seeds.succeeded_run(registry)
    answer = client.get(f"/runs/{run.id}/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: points\n" in answer.text
    assert answer.text.rstrip().endswith("event: done\ndata: ended")


class PaidJobs:
    """A hosted endpoint with a job that runs."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = FakeOpenAI()
        self.provider: Provider = provider_over(self.client)
        self.client.statuses = ["running"] * 9
        self.job_id = self.client.seed_job().id
        monkeypatch.setattr(project.endpoints, "open", lambda name, start=False: self.provider)
        run = seeds.run_of(provider="openai", endpoint=self.provider.endpoint)
        self.run = seeds.add_run(project.registry, run, seeds.job_of(run, id=self.job_id), steps=2)


def test_cancel_asks_first_where_it_costs_money(
    client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = PaidJobs(project, monkeypatch)
    token = csrf_of(client)
    path = f"/runs/{jobs.run.id}/cancel"
    asked = client.post(path, data={"csrf": token}, headers=SAME_ORIGIN)
    assert asked.headers["location"] == path, "not done without the answer"
    assert "may bill what was already trained" in client.get(path).text
    assert jobs.provider.jobs.get(jobs.job_id).status == "running"
    done = client.post(path, data={"csrf": token, "confirmed": "yes"}, headers=SAME_ORIGIN)
    assert (done.status_code, done.headers["location"]) == (303, f"/runs/{jobs.run.id}")
    assert jobs.provider.jobs.get(jobs.job_id).status == "cancelled"
    assert "cancelled" in client.get(f"/runs/{jobs.run.id}").text


def test_action_refuses_another_endpoint(client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the provider was changed since: a job of the same id there is another one."""
    jobs = PaidJobs(project, monkeypatch)
    jobs.provider.endpoint = "https://elsewhere.example"
    data = {"csrf": csrf_of(client), "confirmed": "yes"}
    answer = client.post(f"/runs/{jobs.run.id}/cancel", data=data, headers=SAME_ORIGIN)
    assert answer.status_code == 500
    assert "now leads to" in answer.text


def test_action_unknown(client: TestClient, registry: Registry) -> None:
    run = seeds.add_run(registry, seeds.run_of(), seeds.job_of(seeds.run_of()), steps=1)
    data = {"csrf": csrf_of(client), "confirmed": "yes"}
    assert client.post(f"/runs/{run.id}/delete", data=data, headers=SAME_ORIGIN).status_code == 400


@pytest.mark.parametrize("payload", PAYLOADS)
def test_runs_hostile_text_is_inert(client: TestClient, registry: Registry, payload: str) -> None:
    """In every field that an endpoint or a file can fill."""
    text = payload.encode("utf-8", "replace").decode()
    run = seeds.run_of(suffix=text, data=f"data/{text}".replace("\x00", ""), model=text)
    job = seeds.job_of(run, "failed", error={"code": text, "message": text}, id=f"ftjob-{text}")
    seeds.add_run(registry, run, job, steps=2)
    event = seeds.metric_event(3, **{f"{text}_loss": 1.0}).model_copy(update={"message": text, "type": "message"})
    registry.jobs.save_events(job, [event])
    for path in (
        "/runs",
        f"/runs/{run.id}",
        f"/runs/{run.id}/cancel",
        f"/runs/{run.id}/values",
        "/runs?q=%3Cscript%3E",
    ):
        assert active_parts(client.get(path).text) == [], path
    data = client.get(f"/runs/{run.id}/points")
    assert data.headers["content-type"] == "application/json"
