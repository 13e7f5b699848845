"""An evaluation in which every text that a stranger could write tries to act."""

from __future__ import annotations

from ftpipe.records import Model, TrainingMetrics
from ftpipe.records.evaluation import (
    Answer,
    Arm,
    ArmResult,
    Comparison,
    Evaluation,
    GateResult,
    Item,
    JudgeResult,
    Outcome,
    SamplingParams,
    Score,
    Task,
    TokenPrice,
    ToolCall,
    TrainingOverlap,
    Usage,
)
from ftpipe.reports.evaluation.html import PageContext

PAYLOADS = (
    "<script>document.title='PWNED'</script>",
    "\"'><img src=x onerror=\"document.title='PWNED'\">",
    "</style></title></pre><svg/onload=document.title='PWNED'>",
    "javascript:document.title='PWNED'",
    "{{ 7 * 7 }}{{{{{ 1 }}{% raw %}{# x #}${7*7}",
    "</script><!--<script>document.title='PWNED'",
    "<iframe srcdoc=\"<script>parent.document.title='PWNED'</script>\"></iframe>",
    "]]><xml:evil/><a href='javascript:alert(1)'>x</a>",
    "=cmd|' /C calc'!A0",
    "\x1b[2J\x1b]0;PWNED\x07\x00\u202e\u2066gnirts\u2028",
    "\udfff\ud800 half a character",
    "@everyone [x](javascript:alert(1)) ![y](http://127.0.0.1/z) | a | `b` www.example.com",
    "&lt;script&gt;document.title='PWNED'&lt;/script&gt;",
)


def hostile(payload: str) -> tuple[Evaluation, PageContext]:
    """The payload in every text field, and in names that are keys."""
    base, tuned, control = f"{payload} a", f"{payload} b", f"{payload} c"
    price = TokenPrice(model=payload, input=1, output=2, cached=0.5, currency=payload, as_of=payload, source=payload)
    arms = [
        Arm(name=base, model=payload, system=payload, price=price),
        Arm(name=tuned, model=payload, price=price),
        Arm(name=control, model=payload, is_control=True),
    ]
    results = tuple(
        ArmResult(
            arm=arm,
            scores=(Score(metric="exact", value=0.5, low=0.1, high=0.9, items=2, method="wilson"),),
            usage=Usage(requests=2, cost_per_request=0.1, cost=0.2, latency_p50_s=0.1, currency=payload),
            confusion={payload: {payload: 1, "(other)": 2}},
            fields={payload: 0.5},
        )
        for arm in arms
    )
    comparisons = tuple(_comparison(*pair) for pair in ((base, tuned), (base, control), (control, tuned)))
    evaluation = Evaluation(
        id="eval-0123456789ab", created_at=1_795_000_000, data=payload, data_sha256="0" * 64, task=Task.LABEL,
        task_reason=payload, primary_metric="exact", confidence=0.95, sampling=SamplingParams(), arms=results,
        comparisons=comparisons, outcomes=tuple(_outcome(payload, arms, number) for number in (1, 2)),
        judgments=(_judged(payload, base, tuned),),
        gates=(GateResult(expression=payload, passed=False, explanation=payload),),
        training_overlaps=(TrainingOverlap(arm=tuned, items=1, total=2),),
    )  # fmt: skip
    model = Model(
        id=payload, base=payload, provider=payload, endpoint=payload, job_id=payload, file_id=payload,
        dataset_sha256=payload, currency=payload, base_shutdown_date=payload, created_at=1,
    )  # fmt: skip
    curve = [TrainingMetrics(step=step, train_loss=1 / step) for step in (1, 2, 3)]
    return evaluation, PageContext(models={tuned: model}, curves={tuned: curve})


def _comparison(baseline: str, challenger: str) -> Comparison:
    return Comparison(
        metric="exact", baseline=baseline, challenger=challenger, items=2, difference=0.5, low=None, high=None,
        confidence=0.95, p_value=0.5, p_value_adjusted=0.5, method="exact McNemar", only_baseline=0, only_challenger=1,
        verdict="inconclusive", additional_items=1000,
    )  # fmt: skip


def _judged(payload: str, baseline: str, challenger: str) -> JudgeResult:
    return JudgeResult(
        model=payload, baseline=baseline, challenger=challenger, wins=1, losses=0, ties=1, flip_rate=0.5, p_value=1.0,
        verdict="inconclusive",
    )  # fmt: skip


def _outcome(payload: str, arms: list[Arm], number: int) -> Outcome:
    call = ToolCall(name=payload, arguments=payload)
    messages = (
        {"role": payload, "content": payload},
        {"role": "user", "content": [{"type": payload, "text": payload}]},
    )
    item = Item(
        id=f"{number:016x}", line=number, messages=messages, tools=({"type": payload},), expected=payload,
        expected_calls=(call,),
    )  # fmt: skip
    answers = (Answer(text=payload, tool_calls=(call,)), Answer(error=payload))
    return Outcome(
        item=item,
        answers={arm.name: answers for arm in arms},
        scores={arm.name: {"exact": float(index + number == 2)} for index, arm in enumerate(arms)},
    )
