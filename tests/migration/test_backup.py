"""A backup holds what the account holds, changes nothing there, and survives kills and damage."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftpipe.errors import ConnectionFailedError, LocalStateError, LockedError, UsageError
from ftpipe.migration import backup_folder
from ftpipe.migration.backup import Backup, BackupResult, Selection, select_all, select_model
from ftpipe.migration.backup_folder import BackupFolder
from ftpipe.migration.backup_manifest import PATH, BackupHeader, safe_name
from ftpipe.providers.provider import Provider
from tests.examples import examples
from tests.fakes.account_contents import MAIN, MAIN_MODEL, TUNES
from tests.fakes.openai_account import OpenAIAccount
from tests.fakes.scripted_server import LOST, Fault, refusal
from tests.faults.environment import KEY, provider_at
from tests.faults.fork_server import ForkServer
from tests.migration.conftest import RunCommand

KILLS = int(os.environ.get("FTPIPE_KILLS", str(examples(3, 8))))
SEED = int(os.environ.get("FTPIPE_SEED", "20261128"))


def provider_of(account: OpenAIAccount) -> Provider:
    """The account as a provider that does not wait between attempts."""
    return provider_at(account.base_url, sleep=lambda _seconds: None)


def header_of(provider: Provider) -> BackupHeader:
    return BackupHeader(
        provider=provider.profile.name, endpoint=provider.endpoint, base_url=provider.base_url, created_at=1
    )


@dataclass
class Account:
    """An account, and a folder for its backup."""

    endpoint: OpenAIAccount
    folder: Path

    def back_up(self, *names: str) -> BackupResult:
        """Back up some models, or all."""
        provider = provider_of(self.endpoint)
        folder = BackupFolder.create(self.folder, header_of(provider))
        try:
            selection = Selection([]) if names else select_all(provider.account)
            for name in names:
                selection.job_ids += select_model(provider.account, name).job_ids
            return Backup(provider, folder).run(selection)
        finally:
            provider.close()

    def read(self, path: str) -> object:
        """A JSON document of the backup."""
        return json.loads((self.folder / path).read_text())

    def job_path(self, job_id: str = MAIN.id) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / safe_name(job_id)

    def content_path(self) -> Path:
        """The training file of the main model."""
        file_id = self.endpoint.jobs[MAIN.id]["training_file"]
        return self.folder / "files" / safe_name(file_id) / "content.jsonl"


@pytest.fixture
def saved(account: OpenAIAccount, tmp_path: Path) -> Account:
    """The account, and a folder that does not exist yet."""
    return Account(account, tmp_path / "backup")


def test_backup_saves_all_and_changes_nothing(saved: Account) -> None:
    endpoint = saved.endpoint
    before = endpoint.state_digest()
    result = saved.back_up()
    assert result.jobs == len(TUNES) == 40
    for job_id, job in endpoint.jobs.items():
        folder = f"jobs/{safe_name(job_id)}"
        assert saved.read(f"{folder}/job.json")["object"] == job  # type: ignore[index]
        assert saved.read(f"{folder}/events.json") == {"events": endpoint.account.events[job_id]}
        assert saved.read(f"{folder}/checkpoints.json") == {"checkpoints": endpoint.account.checkpoints[job_id]}
    named = {
        file_id
        for job in endpoint.jobs.values()
        for file_id in (job["training_file"], job["validation_file"], *(job["result_files"] or ()))
        if file_id
    }
    contents = {path.parent.name: path.read_bytes() for path in saved.folder.glob("files/*/content.*")}
    assert contents == {safe_name(one): endpoint.contents[one] for one in named if one in endpoint.contents}
    assert result.files == len(contents) > 30
    missing = {item.id for item in result.missing if item.kind == "content"}
    assert missing >= named - endpoint.contents.keys()
    assert all(item.reason for item in result.missing)
    model = saved.read(f"models/{safe_name(MAIN_MODEL)}.json")
    assert isinstance(model, dict)
    assert model["hyperparameters"]["n_epochs"] == 3
    assert model["object"]["id"] == MAIN_MODEL
    without_job = {item.id for item in result.missing if item.kind == "job"}
    assert "ft:gpt-4o-mini-2024-07-18:acme:imported:0a1b2c3d job" in without_job
    assert "curie:ft-acme-2023-02-01-10-00-00 job" in without_job
    ended = ("succeeded", "failed", "cancelled")
    assert set(result.unfinished) == {tune.id for tune in TUNES if tune.status not in ended}
    assert endpoint.changes == []
    assert endpoint.paid == []
    assert {one.method for one in endpoint.log} == {"GET"}
    assert endpoint.state_digest() == before


def test_backup_reads_nothing_twice(saved: Account) -> None:
    saved.back_up(MAIN_MODEL)
    first = counts(saved.endpoint)
    result = saved.back_up(MAIN_MODEL)
    assert result.read == 0
    assert counts(saved.endpoint) == first


def counts(endpoint: OpenAIAccount) -> Counter[str]:
    """How often each object was read; lists of all jobs and models are left out."""
    paths = (one.path.partition("?")[0].removeprefix("/v1/") for one in endpoint.log)
    return Counter(path for path in paths if path not in ("fine_tuning/jobs", "models"))


def test_backup_reads_a_running_job_again(saved: Account) -> None:
    running = next(tune for tune in TUNES if tune.status == "running")
    saved.back_up(running.id)
    saved.endpoint.jobs[running.id]["status"] = "failed"
    assert saved.back_up(running.id).unfinished == ()
    assert saved.read(f"jobs/{safe_name(running.id)}/job.json")["record"]["status"] == "failed"  # type: ignore[index]


def test_backup_replaces_damaged_files_only(saved: Account) -> None:
    saved.back_up(MAIN_MODEL)
    data = saved.content_path()
    good = data.read_bytes()
    data.write_bytes(good[:-3] + b"XX\n")
    (saved.job_path() / "events.json").unlink()
    first = counts(saved.endpoint)
    result = saved.back_up(MAIN_MODEL)
    assert sorted(result.damaged) == sorted(
        str(path.relative_to(saved.folder)) for path in (data, saved.job_path() / "events.json")
    )
    assert result.read == 2
    again = {path for path in (counts(saved.endpoint) - first)}
    assert again == {
        f"fine_tuning/jobs/{MAIN.id}/events",
        f"files/{saved.endpoint.jobs[MAIN.id]['training_file']}/content",
    }
    assert data.read_bytes() == good


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (refusal(404, message="No such File object"), "not_found"),
        (refusal(403, message="no permission"), "authentication"),
    ],
)
def test_backup_names_deleted_and_forbidden_files(saved: Account, fault: Fault, code: str) -> None:
    saved.endpoint.always("GET /files/{id}/content", fault)
    result = saved.back_up(MAIN_MODEL)
    assert {item.code for item in result.missing} == {code}
    assert all(fault.message in item.reason for item in result.missing)
    saved.endpoint.always("GET /files/{id}/content", None)
    assert saved.back_up(MAIN_MODEL).missing == ()


def test_backup_stops_without_network_and_continues(saved: Account) -> None:
    saved.endpoint.always("GET /files/{id}/content", LOST)
    with pytest.raises(ConnectionFailedError):
        saved.back_up(MAIN_MODEL)
    saved.endpoint.always("GET /files/{id}/content", None)
    first = counts(saved.endpoint)
    assert saved.back_up(MAIN_MODEL).missing == ()
    assert set(counts(saved.endpoint) - first) == {path for path in counts(saved.endpoint) if path.endswith("/content")}


def test_backup_does_not_keep_a_content_that_was_cut_off(saved: Account) -> None:
    saved.endpoint.script("GET /files/{id}/content", Fault(then="cut"))
    assert saved.back_up(MAIN_MODEL).missing == ()
    file_id = saved.endpoint.jobs[MAIN.id]["training_file"]
    assert saved.content_path().read_bytes() == saved.endpoint.contents[file_id]


def test_backup_refuses_contents_that_change_or_never_end(saved: Account) -> None:
    route = "GET /files/{id}/content"
    saved.endpoint.script(route, Fault(body=b"one"), Fault(body=b"two"), Fault(body=b"x" * 4_000_000))
    result = saved.back_up(MAIN_MODEL)
    reasons = " ".join(item.reason for item in result.missing)
    assert len(result.missing) == 2
    assert "another content each time" in reasons
    assert "more than" in reasons


def test_backup_takes_no_name_from_the_endpoint(saved: Account) -> None:
    job = saved.endpoint.jobs[MAIN.id]
    named = (job["training_file"], job["validation_file"], *job["result_files"])
    for file_id, name in zip(named, ("../../x.jsonl", "/etc/x.jsonl", "a\n\x1b[31m.jsonl"), strict=True):
        saved.endpoint.files[file_id]["filename"] = name
    job["result_files"] += ["file-..", "../jobs", "a/../../b", "file-ABC", "file-abc", "con"]
    for file_id in ("file-ABC", "file-abc", "con"):
        saved.endpoint.files[file_id] = {
            "id": file_id,
            "bytes": 3,
            "filename": "same.csv",
            "purpose": "fine-tune-results",
        }
        saved.endpoint.contents[file_id] = file_id[:3].encode()
    result = saved.back_up(MAIN_MODEL)
    paths = [str(path.relative_to(saved.folder.parent)) for path in saved.folder.parent.rglob("*") if path.is_file()]
    assert all(path.startswith("backup/") for path in paths)
    assert len({path.lower() for path in paths}) == len(paths)
    refused = {item.id for item in result.missing if item.code == "invalid_response"}
    assert refused == {"file-..", "../jobs", "a/../../b"}
    assert len(list(saved.folder.glob("files/*/content.csv"))) >= 3


def test_safe_name_is_different_for_different_ids() -> None:
    ids = ["a", "A", "a.", "../a", "a/b", "a b", "nul", "COM1", ".", "..", "x" * 300, "x" * 301, "é", "ft:m:o:s:1"]
    names = [safe_name(one) for one in ids]
    names += [safe_name(name) for name in names if name not in ids]
    assert len({name.lower() for name in names}) == len(names)
    assert [name for name in names if not PATH.fullmatch(f"models/{name}.json")] == []
    assert not {name.split(".")[0] for name in names} & {"nul", "com1", "con"}


def test_backup_refuses_a_folder_with_other_content(saved: Account) -> None:
    saved.folder.mkdir()
    (saved.folder / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        saved.back_up()
    assert [path.name for path in saved.folder.iterdir()] == ["thesis.tex"]


def test_backup_refuses_the_folder_of_another_endpoint(saved: Account) -> None:
    saved.back_up(MAIN_MODEL)
    provider = provider_at("http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="is a backup of test at"):
        BackupFolder.create(saved.folder, header_of(provider))


def test_backup_does_not_write_through_links(saved: Account, tmp_path: Path) -> None:
    saved.back_up(MAIN_MODEL)
    outside = tmp_path / "outside"
    (saved.folder / "files").rename(outside)
    (saved.folder / "files").symlink_to(outside)
    with pytest.raises(LocalStateError, match="is a link"):
        saved.back_up(MAIN_MODEL)


def test_backup_is_written_by_one_process(saved: Account) -> None:
    saved.back_up(MAIN_MODEL)
    folder = BackupFolder.open(saved.folder)
    with folder.lock(), pytest.raises(LockedError):
        saved.back_up(MAIN_MODEL)


class SimulatedCrash(BaseException):
    """SIGKILL: no line after this one is executed."""


def test_backup_continues_after_a_crash_at_any_write(
    saved: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every write of a backup of one model, before and after it: what was complete is not read again."""
    steps = {"number": 0, "crash_at": -1}
    places = ((backup_folder, "write_bytes"), (backup_folder, "rename_durably"), (BackupFolder, "_append_line"))
    for owner, name in places:
        real = getattr(owner, name)

        def stepping(*args: object, _real: object = real, **named: object) -> None:
            for call in (None, _real):
                if call is not None:
                    call(*args, **named)  # type: ignore[operator]
                steps["number"] += 1
                if steps["number"] == steps["crash_at"]:
                    raise SimulatedCrash

        monkeypatch.setattr(owner, name, stepping)
    saved.back_up(MAIN_MODEL)
    total, whole = steps["number"], {path: one.sha256 for path, one in BackupFolder.open(saved.folder).entries.items()}
    once = counts(saved.endpoint)
    assert total > 40
    for crash_at in range(1, total + 1, examples(5, 1)):
        one = Account(saved.endpoint, tmp_path / str(crash_at))
        saved.endpoint.log.clear()
        steps.update(number=0, crash_at=crash_at)
        with pytest.raises(SimulatedCrash):
            one.back_up(MAIN_MODEL)
        steps["crash_at"] = -1
        one.back_up(MAIN_MODEL)
        assert {path: entry.sha256 for path, entry in BackupFolder.open(one.folder).entries.items()} == whole
        repeated = counts(saved.endpoint) - once
        assert len(repeated) <= 1, f"crash at write {crash_at}: {repeated}"


@pytest.mark.slow
def test_backup_killed_at_random_moments_is_complete(
    saved: Account, fork_server: ForkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself under SIGKILL, at random requests and times; then it is run to its end."""
    endpoint, rng = saved.endpoint, random.Random(SEED)
    before = endpoint.state_digest()
    env = {
        "OPENAI_BASE_URL": endpoint.base_url,
        "OPENAI_API_KEY": KEY,
        "FTPIPE_HOME": str(saved.folder.parent / "home"),
    }
    argv = ["models", "backup", "--all", "backup", "--provider", "openai"]
    kills, requests_between = 0, max(6, 400 // KILLS)
    while kills < KILLS:
        number, answered = rng.randint(1, requests_between), rng.random() < 0.5
        if not kill_at(endpoint, fork_server, argv, saved.folder.parent, env, number, answered):
            break  # it came to its end
        kills += 1
    fork_server.start(argv, saved.folder.parent, env=env)
    code, _ = fork_server.wait()
    assert code == 0, (saved.folder.parent / "output.txt").read_text()[-2000:]
    killed = counts(endpoint)
    endpoint.log.clear()
    whole = Account(endpoint, saved.folder.parent / "whole")
    whole.back_up()
    repeated = killed - counts(endpoint)
    with capsys.disabled():
        print(f"\nbackup: {kills} kills, {len(repeated)} of {len(killed)} objects read twice, seed {SEED}")  # noqa: T201
    assert len(repeated) <= kills
    folder = BackupFolder.open(saved.folder)
    assert folder.check(folder.entries.values()) == {}
    assert {*folder.entries} == {*BackupFolder.open(whole.folder).entries}
    assert endpoint.changes == []
    assert endpoint.state_digest() == before


def kill_at(
    endpoint: OpenAIAccount,
    fork_server: ForkServer,
    argv: list[str],
    folder: Path,
    env: dict[str, str],
    number: int,
    answered: bool,
) -> bool:
    """Kill the command at its request of that number; whether it was still running."""
    requests, pid, started = 0, 0, threading.Event()

    def watch(_route: str) -> None:
        nonlocal requests
        requests += 1
        if requests == number and started.wait(60):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    hook = "after" if answered else "before"
    setattr(endpoint, hook, watch)
    pid = fork_server.start(argv, folder, env=env)
    started.set()
    code, _ = fork_server.wait()
    setattr(endpoint, hook, lambda _route: None)
    return code < 0


def test_models_backup_command(run_command: RunCommand, account: OpenAIAccount) -> None:
    done = run_command("models", "backup", "--all", "backup", "--provider", "openai")
    assert done.code == 0, done.err
    assert "40 jobs" in done.out
    assert "missing:" in done.out
    assert "not_found" in done.out
    assert "\x1b" not in done.out
    checked = run_command("models", "backup", "--verify", "backup", "--json")
    assert checked.code == 0
    assert checked.document["problems"] == {}
    path = next(Path("backup").glob("files/*/content.jsonl"))
    path.write_bytes(b"changed")
    checked = run_command("models", "backup", "--verify", "backup")
    assert checked.code == 1
    assert str(path.relative_to("backup")) in checked.out
    assert account.changes == []


def test_models_backup_exits_1_for_what_may_still_exist(run_command: RunCommand, account: OpenAIAccount) -> None:
    account.always("GET /files/{id}/content", refusal(403, message="no permission"))
    done = run_command("models", "backup", MAIN_MODEL, "backup", "--provider", "openai", "--json")
    assert done.code == 1
    assert {item["code"] for item in done.document["missing"]} == {"authentication"}


def test_models_backup_warns_about_an_empty_provider(run_command: RunCommand, account: OpenAIAccount) -> None:
    account.jobs.clear()
    account.models.clear()
    done = run_command("models", "backup", "--all", "backup", "--provider", "openai")
    assert done.code == 0, done.err
    assert "warning: there are no jobs and no tuned models at openai; --provider NAME" in done.err


@pytest.mark.parametrize("argv", [("backup",), ("m", "d", "--all"), ("m", "d", "--verify")])
def test_models_backup_needs_a_choice(run_command: RunCommand, argv: tuple[str, ...]) -> None:
    assert run_command("models", "backup", *argv, "--provider", "openai").code == 2
    assert list(Path.cwd().iterdir()) == []
