"""lm-evaluation-harness: ``local-completions``, with log-probabilities of prompts, and ``local-chat-completions``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.clients.python.checks import (
    API_KEY,
    BASE_FOLDER,
    BASE_URL,
    MODEL,
    UNKNOWN_MODEL,
    WORK_FOLDER,
    expect,
    run,
)

ROWS = [{"text": f"ticket {i}", "choices": ["bug", "bill"], "answer": i % 2} for i in range(4)]


def task(name: str, output: str, extra: str) -> None:
    """Write a task over a local file."""
    (WORK_FOLDER / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    lines = [
        f"task: {name}",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {WORK_FOLDER / 'rows.jsonl'}}}}}",
        "test_split: test",
        f"output_type: {output}",
        'doc_to_text: "{{text}}"',
    ]
    (WORK_FOLDER / f"{name}.yaml").write_text("\n".join([*lines, extra, ""]), encoding="utf-8")


def lm_eval(model: str, name: str, *words: str, served: str = MODEL, is_failure: bool = False) -> str:
    """Run a task."""
    path = "chat/completions" if "chat" in model else "completions"
    arguments = f"base_url={BASE_URL}/{path},model={served},num_concurrent=4,max_retries=1,max_length=400"
    arguments += "" if "chat" in model else f",tokenizer={BASE_FOLDER},tokenizer_backend=huggingface"
    command = ["--model", model, "--model_args", arguments, "--tasks", name, "--include_path", str(WORK_FOLDER)]
    ran = subprocess.run(
        [sys.executable, "-m", "lm_eval", *command, *words],
        env=os.environ | {"OPENAI_API_KEY": API_KEY, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    expect((ran.returncode != 0) == is_failure, ran.stdout[-2000:] + ran.stderr[-4000:])
    return ran.stdout + ran.stderr


def choices() -> str:
    task(
        "tickets_choice",
        "multiple_choice",
        'doc_to_choice: "{{choices}}"\ndoc_to_target: answer\nmetric_list: [{metric: acc}]',
    )
    expect("acc" in lm_eval("local-completions", "tickets_choice"), "no accuracy")
    return "local-completions: multiple choice by log-probabilities"


def generated(model: str, *words: str) -> str:
    task(
        "tickets_text",
        "generate_until",
        'doc_to_target: "{{choices[answer]}}"\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
        "metric_list: [{metric: exact_match}]",
    )
    expect("exact_match" in lm_eval(model, "tickets_text", *words), "no result")
    return f"{model}: generate_until"


def completions() -> str:
    return generated("local-completions")


def chat() -> str:
    return generated("local-chat-completions", "--apply_chat_template")


def unknown_model() -> str:
    text = lm_eval(
        "local-chat-completions", "tickets_text", "--apply_chat_template", served=UNKNOWN_MODEL, is_failure=True
    )
    expect("404" in text or "model_not_found" in text, text[-2000:])
    return "ends with the 404"


CHECKS = {"choices": choices, "completions": completions, "chat": chat, "unknown model": unknown_model}

if __name__ == "__main__":
    run(("lm_eval",), CHECKS)
