"""The start page, without a browser: the plan, its price, the command, and that a form starts one run."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from ftpipe.records.idempotency_keys import run_key
from ftpipe.ui.background import CommandState
from ftpipe.ui.datasets.checks import DatasetTasks
from ftpipe.ui.datasets.worker import run_task
from ftpipe.ui.pages import start
from ftpipe.ui.project import Project
from ftpipe.ui.training_form import TrainingForm, TrainingPlan
from tests.ui import seeds
from tests.ui.conftest import csrf_of

ORIGIN = {"origin": "http://127.0.0.1:8322"}


class FakeCommands:
    """Remembers what was started."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def start(self, arguments: Sequence[str], *, title: str) -> str:
        self.started.append(list(arguments))
        return f"cmd-{len(self.started):012x}"


@pytest.fixture
def commands(project: Project, monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(project.commands, "start", fake.start)
    return fake


@pytest.fixture
def data(project: Project, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a good dataset."""
    project.datasets.tasks = DatasetTasks(project.state_dir, run=lambda _state, task: {"result": run_task(task)})
    monkeypatch.setattr(start, "SMALL_SECONDS", 30)
    rows = [
        {"messages": [{"role": "user", "content": f"mail {n}"}, {"role": "assistant", "content": "billing"}]}
        for n in range(20)
    ]
    (own_home / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return project.datasets.files.all()[0].id


def command_state(**changes: Any) -> CommandState:
    """A command that runs."""
    values: dict[str, Any] = {
        "id": "cmd-000000000001", "title": "Train x", "line": "ftpipe train x", "started_at": 1.0,
        "is_running": True, "document": None, "messages": (),
    }  # fmt: skip
    return CommandState(**{**values, **changes})


def shown_plan(page: str) -> dict[str, str]:
    """The plan that the button of a page starts, with its price and the key of the form."""
    url = html.unescape(page.partition('formaction="')[2].partition('"')[0])
    return dict(parse_qsl(url.partition("?")[2]))


def press_start(client: TestClient, shown: dict[str, str], **fields: str) -> Response:
    """Press the button beside a plan, with the fields of the form."""
    return client.post("/start", params=shown, data={"csrf": csrf_of(client), **fields}, headers=ORIGIN)


def test_start_without_data_names_the_data_page(client: TestClient) -> None:
    page = client.get("/start").text
    assert "There is no dataset yet" in page


def test_plan_writes_out_what_auto_stands_for(client: TestClient, data: str) -> None:
    page = client.get("/start", params={"data": data, "epochs": "2"}).text
    assert "epochs 2, batch size 4 (auto), learning rate multiplier 1 (auto)" in page
    assert "learning rate 0.002 (auto), LoRA rank 16 (auto)" in page
    assert "ftpipe train --provider local --epochs 2 train.jsonl" in page
    assert "Start training, free" in page
    assert "20 examples" in page


def test_start_runs_the_command_that_is_shown_once(client: TestClient, data: str, commands: FakeCommands) -> None:
    """A double click and a form that is sent again do not make a second run."""
    choice = {"data": data, "provider": "local", "epochs": "2"}
    shown = shown_plan(client.get("/start", params=choice).text)
    answers = [press_start(client, shown, **choice) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [303] * 3
    assert commands.started == [["train", "--yes", "--provider", "local", "--epochs", "2", "train.jsonl"]]
    assert {answer.headers["location"].partition("?")[0] for answer in answers} == {"/start/cmd-000000000001"}


@pytest.mark.parametrize("change", [{"epochs": "3"}, {"epochs": ""}, {"provider": "nebius"}, {"suffix": "x"}])
def test_start_shows_the_plan_of_fields_that_were_changed_since(
    client: TestClient, data: str, commands: FakeCommands, change: dict[str, str]
) -> None:
    """Whatever a script did not do in time, the button starts nothing but the plan beside it."""
    choice = {"data": data, "provider": "local", "epochs": "2"}
    shown = shown_plan(client.get("/start", params=choice).text)
    answer = press_start(client, shown, **(choice | change))
    assert answer.status_code == 303
    fields = dict(parse_qsl(answer.headers["location"].partition("?")[2]))
    assert fields.pop("changed") == "1"
    assert fields == {name: value for name, value in (choice | change).items() if value}
    assert commands.started == []
    page = client.get(answer.headers["location"])
    assert page.text.index("Nothing was started") < page.text.index('id="start-button"')
    assert "press the button again" in page.text
    assert "Nothing was started" not in client.get("/start", params=fields).text
    assert press_start(client, shown_plan(page.text), **fields).headers["location"].startswith("/start/cmd-")
    assert len(commands.started) == 1


@pytest.mark.parametrize("provider", ["local", "nebius"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": "abc"}, {"epochs": "-1"}, {"batch_size": "x"}, {"learning_rate_multiplier": "-"}, {"seed": "x"},
        {"max_cost": "free"}, {"suffix": "x" * 80}, {"data": "0" * 16}, {"method": "guess"},
    ],
)  # fmt: skip
def test_wrong_field_changes_no_other_one(client: TestClient, data: str, wrong: dict[str, str], provider: str) -> None:
    """A browser sends the first of a list's values if the page does not say which one was chosen."""
    choice = {"data": data, "provider": provider, "epochs": "2", "batch_size": "3", "suffix": "s", "seed": "4"} | wrong
    page = client.get("/start", params=choice).text
    assert 'class="notice error"' in page
    assert "start-button" not in page
    assert selected(page, "provider") == provider
    for name in choice.keys() - {"data", "provider", "method"}:
        assert f'name="{name}"' in page
        assert re.search(f'name="{name}"[^>]* value="{re.escape(choice[name])}"', page)
    if "data" not in wrong:
        assert selected(page, "data") == data


def test_base_model_that_is_not_here_has_the_size_of_its_download(client: TestClient, data: str) -> None:
    page = client.get("/start", params={"data": data, "provider": "local"}).text
    label = page.partition('<option value="smollm2-135m-instruct">')[2].partition("</option>")[0]
    assert re.search(r"GB for \d+ rows of \d+ tokens · .*fetched once · download of \d+\.?\d* MB", label)


def test_error_names_the_field_not_the_option(client: TestClient, data: str) -> None:
    for name, label in (
        ("epochs", "Epochs"),
        ("learning_rate_multiplier", "Learning rate multiplier"),
        ("seed", "Seed"),
    ):
        page = client.get("/start", params={"data": data, "provider": "local", name: "abc"}).text
        error = page.partition('role="alert">')[2].partition("</div>")[0]
        assert f"<b>{label}" in error
        assert "--" not in error


def selected(page: str, name: str) -> str:
    """The value of a list that the page has chosen."""
    options = page.partition(f'<select id="f-{name}"')[2].partition("</select>")[0]
    (value,) = re.findall(r'<option value="([^"]*)" selected>', options)
    return str(value)


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({}, "running", "it goes on"),
        ({"state": "registered"}, "succeeded", "nothing new"),
        ({"state": "failed"}, "", ""),
    ],
)
def test_same_plan_leads_to_its_run(
    client: TestClient,
    data: str,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    status: str,
    word: str,
) -> None:
    """Beside the button and after it; a run that failed is no reason to start nothing."""
    choice = {"data": data, "provider": "local", "epochs": "2"}
    plan = TrainingPlan(project, TrainingForm.of(choice), wait_seconds=30).plan
    assert plan is not None
    sha256 = plan.report.dataset.sha256
    run = seeds.run_of(spec=plan.spec, dataset_sha256=sha256, **changes)
    key = run_key(plan.spec, endpoint=run.endpoint, dataset_sha256=sha256, validation_sha256=None)
    project.registry.runs.start(run, key=key, ordinal=0)
    if status:
        project.registry.jobs.save(seeds.job_of(run, status), run_id=run.id)
        project.registry.runs.save(run.model_copy(update={"job": seeds.job_of(run, status)}))
    monkeypatch.setattr(project.commands, "start", lambda *_args, **_options: "cmd-000000000001")
    is_running = status == "running"
    state = command_state(started_at=seeds.STARTED + 100.0, is_running=is_running, document=None if is_running else {})
    monkeypatch.setattr(project.commands, "find", lambda _id: state)
    page = client.get("/start", params=choice).text
    started = client.get(press_start(client, shown_plan(page), **choice).headers["location"]).text
    link = f'href="/runs/{run.id}"'
    assert [link in text for text in (page, started)] == [bool(word)] * 2
    assert word in started
    assert link not in client.get("/start", params={**choice, "epochs": "3"}).text


@pytest.mark.parametrize(("job", "is_offered"), [(None, False), ("running", True)])
def test_run_is_offered_when_its_job_exists(
    client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch, job: str | None, is_offered: bool
) -> None:
    """Before, its page says no more than this one."""
    run = seeds.run_of(state="uploaded" if job is None else "created")
    seeds.add_run(project.registry, run, seeds.job_of(run, job) if job else None)
    monkeypatch.setattr(project.commands, "find", lambda _id: command_state(started_at=float(run.created_at)))
    page = client.get("/start/cmd-000000000001", params={"data": run.dataset_sha256}).text
    assert ("Watch the run" in page) == is_offered
    assert ("Starting" in page) != is_offered


def test_paid_job_is_limited_to_the_price_on_the_button(client: TestClient, data: str, commands: FakeCommands) -> None:
    choice = {"data": data, "provider": "nebius", "epochs": "3"}
    page = client.get("/start", params=choice).text
    shown = shown_plan(page)
    price = shown["price"]
    assert price.startswith("about ")
    assert f"Start and pay {price}" in page
    assert press_start(client, shown, **choice).status_code == 303
    (arguments,) = commands.started
    limit = arguments[arguments.index("--max-cost") + 1]
    assert f"at most {float(limit):.4f} USD" in price or f"at most {float(limit):,.2f} USD" in price


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"price": "about 0.01 USD, at most 0.01 USD"}, "the plan has changed"),
        ({"epochs": "99"}, "99"),
        ({"start_key": ""}, "not complete"),
        ({"data": "0" * 16}, "does not exist any more"),
        ({"suffix": "x" * 80}, "suffix"),
    ],
)
def test_start_refuses_and_starts_nothing(
    client: TestClient, data: str, commands: FakeCommands, changes: dict[str, str], message: str
) -> None:
    choice = {"data": data, "provider": "local"}
    shown = shown_plan(client.get("/start", params=choice).text) | changes
    fields = choice | {name: value for name, value in changes.items() if name in TrainingForm.NAMES}
    answer = press_start(client, shown, **fields)
    assert answer.status_code in (400, 409)
    assert message in answer.text
    assert commands.started == []


@pytest.fixture
def prompts(data: str, own_home: Path, project: Project) -> str:
    """The id of prompts for reinforcement, beside files that are no graders."""
    assert data
    row = {"messages": [{"role": "user", "content": "a"}], "label": "b"}
    (own_home / "prompts.jsonl").write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    (own_home / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (own_home / "broken.json").write_text('{"type": ["multi"]}', encoding="utf-8")
    (own_home / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    return next(file.id for file in project.datasets.files.all() if file.name == "prompts.jsonl")


CHECK = {"type": "string_check", "name": "<b>label", "operation": "eq", "input": "{{sample.output_text}}"}


def test_reinforcement_is_started_with_a_grader_of_the_project(
    client: TestClient, prompts: str, own_home: Path, project: Project, commands: FakeCommands
) -> None:
    """Without one the page says how to write it; the command that is shown and started names the file."""
    choice = {"data": prompts, "provider": "local", "method": "reinforcement"}
    page = client.get("/start", params=choice).text
    assert "No file of the project has a grader yet" in page
    assert "reinforcement needs a grader" in page
    assert "Maximum tokens of an answer" in page
    (own_home / "graders").mkdir()
    (own_home / "graders" / "label.json").write_text(json.dumps({**CHECK, "reference": "{{item.label}}"}))
    (file,) = project.graders.all()
    choice["grader"] = file.id
    page = client.get("/start", params=choice).text
    assert "graders/label.json: string_check, &lt;b&gt;label" in page
    assert "ftpipe train --provider local --grader graders/label.json --method reinforcement prompts.jsonl" in page
    assert press_start(client, shown_plan(page), **choice).status_code == 303
    (arguments,) = commands.started
    assert arguments[arguments.index("--grader") + 1] == "graders/label.json"


@pytest.mark.parametrize("grader", ["0" * 16, "../../etc/passwd", "package.json"])
def test_grader_that_the_page_did_not_list_is_refused(
    client: TestClient, prompts: str, commands: FakeCommands, grader: str
) -> None:
    """No path comes from a request."""
    client.get("/start", params={"data": prompts})
    choice = {"data": prompts, "provider": "local", "method": "reinforcement", "grader": grader}
    answer = press_start(client, {**choice, "start_key": "k" * 16}, **choice)
    assert answer.status_code in (400, 409)
    assert "this grader does not exist any more" in answer.text
    assert commands.started == []


def test_grader_that_this_machine_does_not_run_blocks_the_button(
    client: TestClient, prompts: str, own_home: Path, project: Project
) -> None:
    (own_home / "grader.json").write_text(json.dumps({"type": "lambda", "lambda": {"function": "arn:aws:x"}}))
    (file,) = project.graders.all()
    page = client.get("/start", params={"data": prompts, "method": "reinforcement", "grader": file.id}).text
    assert "grader.type: expected one of" in page
    assert "Start training" not in page


def test_unknown_price_has_to_be_accepted(client: TestClient, data: str, commands: FakeCommands) -> None:
    choice = {"data": data, "provider": "together", "model": "some/unknown-model"}
    page = client.get("/start", params=choice).text
    assert "Start training at an unknown price" in page
    shown = shown_plan(page)
    assert press_start(client, shown, **choice).status_code == 409
    assert commands.started == []
    assert press_start(client, shown, **choice, accept="yes").status_code == 303
    assert len(commands.started) == 1


def test_budget_and_closed_providers_block_the_button(client: TestClient, data: str) -> None:
    page = client.get("/start", params={"data": data, "provider": "nebius", "max_cost": "0"}).text
    assert "over the limit" in page
    assert "Start and pay" not in page


def test_dataset_with_errors_blocks_the_button(client: TestClient, data: str, own_home: Path, project: Project) -> None:
    assert data
    (own_home / "bad.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    bad = next(file.id for file in project.datasets.files.all() if file.name == "bad.jsonl")
    page = client.get("/start", params={"data": bad}).text
    assert "would refuse bad.jsonl" in page
    assert "Start training" not in page


def test_command_that_was_started_is_shown_with_its_error(
    client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"error": {"message": "no key", "hint": "set it"}}
    state = command_state(title="Train <b>x</b>", is_running=False, document=error, messages=("a <i>",))
    monkeypatch.setattr(project.commands, "find", lambda _id: state)
    page = client.get("/start/cmd-000000000001").text
    assert "no key" in page
    assert "set it" in page
    assert "<b>x" not in page
    monkeypatch.setattr(project.commands, "find", lambda _id: None)
    assert client.get("/start/cmd-000000000002").status_code == 400
