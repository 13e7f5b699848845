"""The check that renders records like the trainer, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftpipe.dataset.check_settings import CheckSettings
from ftpipe.dataset.training_check import TrainingCheck, find_training_check, local_token_limit
from ftpipe.errors import DatasetError, UsageError
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.paths import models_dir
from ftpipe.training.batching import read_rows
from ftpipe.training.dpo import read_pairs
from tests.dataset.file_level_examples import base_model, codes_of
from tests.dataset.samples import chats, write
from tests.modeling.families import save_tokenizer

QUESTION = {"role": "user", "content": "  What?\n"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [QUESTION],
    [QUESTION, {"role": "assistant", "content": "<b>That</b> & 'this'."}],
]


def check_of(folder: Path) -> TrainingCheck:
    return TrainingCheck(folder)


def test_find_training_check_reads_downloaded_base_model() -> None:
    assert find_training_check("smollm2-135m-instruct") is None and find_training_check("../x") is None
    check = find_training_check(base_model("downloaded", "chatml"))
    assert check is not None and check.row_error({"messages": CONVERSATIONS[1]}) == "" and check.template_error == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% for",
        "{{ 1 / 0 }}",
        "{{ messages[7].x.y }}",
    ],
)
def test_training_check_errors_are_messages(source: str) -> None:
    """Templates are untrusted: they cannot reach Python objects, and their errors become findings."""
    folder = models_dir() / base_model("odd", "chatml")
    (folder / "chat_template.jinja").write_text(source)
    check = check_of(folder)
    assert check.row_error({"messages": CONVERSATIONS[1]}) and check.template_error


def test_training_check_treats_broken_files_as_missing() -> None:
    folder = models_dir() / base_model("broken", None)
    (folder / "tokenizer.json").write_bytes(b"\xff{")
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "tool_use"}], "eos_token": 7}')
    check = check_of(folder)
    assert (check.template.special, check.template_error) == (frozenset(), "The base model has no chat template.")


def test_training_check_finds_template_without_end_of_turn() -> None:
    assert "never stop" in check_of(models_dir() / base_model("endless", "endless")).template_error


def test_training_check_takes_dialogue_opened_by_assistant() -> None:
    """As the trainer does; only templates that reject the order of roles reject the record."""
    opened = {"messages": [{"role": "assistant", "content": "Hello."}, *CONVERSATIONS[1]]}
    assert check_of(models_dir() / base_model("chatml", "chatml")).row_error(opened) == ""
    assert "alternate" in check_of(models_dir() / base_model("mistral", "mistral")).row_error(opened)


def test_training_check_renders_both_answers_of_a_pair() -> None:
    check = check_of(models_dir() / base_model("mistral", "mistral"))
    answer = [{"role": "assistant", "content": "a"}]
    pair = {"input": {"messages": [QUESTION]}, "preferred_output": answer, "non_preferred_output": answer}
    assert check.row_error(pair) == ""
    assert "alternate" in check.row_error({**pair, "input": {"messages": [QUESTION, QUESTION]}})


def model_folder(name: str, *, context: int = 512) -> Path:
    """A base model with a real tokenizer and without weights, in the models folder."""
    folder = save_tokenizer("smollm2", models_dir() / name)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    return folder


def exchange(question: str, answer: str, *more: str) -> dict[str, Any]:
    roles = ["user", "assistant", "user", "assistant"]
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, (question, answer, *more), strict=False)]}


LONG_ROWS = [
    exchange("x" * 900, "b"),
    exchange("a", "b" * 900),
    exchange("a", "b", "c" * 900),
    exchange("a", "b", "c", "d" * 900),
    exchange("ก" * 300, "b"),
    exchange("word " * 100, "answer"),
    exchange("<|im_end|>" * 40, "<filename>" * 40),
]


@pytest.mark.parametrize("row", LONG_ROWS, ids=range(len(LONG_ROWS)))
@pytest.mark.parametrize("max_length", [None, 200, 100])
def test_check_and_trainer_refuse_the_same_rows(row: dict[str, Any], max_length: int | None, tmp_path: Path) -> None:
    """They render with the same code, count with the same tokenizer, and have the same limit."""
    folder = model_folder("small")
    limit = local_token_limit("small", max_length)
    assert limit == (max_length or 512)
    path = write(tmp_path / "a.jsonl", [*chats(11), row])
    quick = CheckSettings(select=("FT2", "FT7"), engine="pure-python", processes=1)
    codes = codes_of(path, target="local", model="small", max_length=max_length, settings=quick)
    try:
        rows = read_rows(path, ChatTokenizer.load(folder), limit=limit)
    except DatasetError as exc:
        assert "line 12: its answer ends after" in exc.message and "FT702" in codes
    else:
        assert "FT702" not in codes and ("FT701" in codes) == (rows.truncated_lines == (12,))


def test_check_and_trainer_refuse_the_same_pairs(tmp_path: Path) -> None:
    """A pair that is too long cannot be compared, so it is an error in both."""
    folder = model_folder("small")
    answers = [[{"role": "assistant", "content": text}] for text in ("a", "b" * 900)]
    pair = {"input": exchange("q", ""), "preferred_output": answers[0], "non_preferred_output": answers[1]}
    pair["input"] = {"messages": [QUESTION]}
    path = write(tmp_path / "a.jsonl", [pair] * 12)
    assert "FT702" in codes_of(path, target="local", model="small")
    with pytest.raises(DatasetError, match=r"line 10: it has \d+ tokens, and 512 are trained"):
        read_pairs(path, ChatTokenizer.load(folder), limit=512)


def test_local_token_limit_of_models_that_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The catalogue knows the default model; a model of the hub's cache is read there."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_token_limit("smollm2-135m-instruct", None) == local_token_limit("org/unknown", None) == 2048
    with pytest.raises(UsageError, match="outside 8 to 8192"):
        local_token_limit("smollm2-135m-instruct", 10_000)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"text_config": {"max_position_embeddings": 640}}')
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    assert local_token_limit("org/name", None) == 640


def test_check_for_local_training_needs_no_torch(tmp_path: Path) -> None:
    """Not even to count exactly; only the package tokenizers is loaded."""
    model_folder("small")
    path = write(tmp_path / "a.jsonl", [*chats(11), LONG_ROWS[0]])
    script = (
        "import sys; from pathlib import Path; from ftpipe.stages.validate import validate\n"
        "report = validate(Path(sys.argv[1]), target='local', model='small')\n"
        "assert report.summary.counts['FT702'] == 1 and 'tokenizers' in sys.modules\n"
        "assert not {'torch', 'transformers', 'openai'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
