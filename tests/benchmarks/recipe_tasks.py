"""Small tasks for comparing recipes: training rows that depend on a seed, and held-out rows that do not.

All rows are made by rules, except those of ``labels``, which are drawn from ``data/support_desk``. Held-out questions
of most tasks are phrased in ways that no training row has, so that they are not answered by repeating patterns alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SUPPORT_DESK = Path(__file__).parents[2] / "data" / "support_desk"
TRAINING_ROWS, TEST_ROWS = 96, 32
Pair = tuple[str, str]
"""A question and its answer."""

NAMES = (
    "Ana",
    "Ben",
    "Chloe",
    "Dario",
    "Eva",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Liam",
    "Mona",
    "Nils",
)
CITIES = ("Oslo", "Lima", "Cairo", "Lyon", "Kyoto", "Boston", "Porto", "Delhi", "Turin", "Accra", "Quito", "Perth")
THINGS = ("lamp", "chair", "kettle", "desk", "carpet", "mirror", "shelf", "clock", "vase", "sofa", "drill", "tent")
COLORS = ("red", "blue", "green", "black", "white", "yellow", "grey", "brown")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Task:
    """A kind of question with its answers.

    Attributes:
        name: In the journal and the table.
        system: First message of all rows.
        training: The training rows of a seed.
        test: The held-out rows.
    """

    name: str
    system: str
    training: Callable[[int], list[Pair]]
    test: Callable[[], list[Pair]]

    def write(self, folder: Path, seed: int) -> tuple[Path, Path]:
        """Write the training file of a seed, and the file with the held-out rows."""
        training, test = folder / "train.jsonl", folder / "test.jsonl"
        training.write_text("".join(map(self._line, self.training(seed))), encoding="utf-8")
        test.write_text("".join(map(self._line, self.test())), encoding="utf-8")
        return training, test

    def digest(self, seed: int) -> str:
        """Beginning of the SHA-256 of all rows, so that losses on other rows are not compared with these."""
        lines = "".join(map(self._line, [*self.training(seed), *self.test()]))
        return hashlib.sha256(lines.encode()).hexdigest()[:12]

    def _line(self, pair: Pair) -> str:
        return json.dumps({"messages": self.messages(pair)}) + "\n"

    def messages(self, pair: Pair) -> list[dict[str, Any]]:
        """A row as chat messages."""
        roles = zip(("system", "user", "assistant"), (self.system, *pair), strict=True)
        return [{"role": role, "content": content} for role, content in roles]


def made_task(name: str, system: str, make: Callable[[random.Random, bool], Pair]) -> Task:
    """A task whose rows are made one by one, from random numbers and whether they are held out."""

    def test() -> list[Pair]:
        return distinct(lambda rng: make(rng, True), random.Random(f"{name} test"), TEST_ROWS)

    def training(seed: int) -> list[Pair]:
        taken = {question for question, _ in test()}
        rng = random.Random(f"{name} training {seed}")
        return distinct(lambda rng: make(rng, False), rng, TRAINING_ROWS, taken)

    return Task(name, system, training, test)


def distinct(
    make: Callable[[random.Random], Pair], rng: random.Random, count: int, taken: Iterable[str] = ()
) -> list[Pair]:
    """So many rows with different questions, none of them taken."""
    questions = set(taken)
    pairs: list[Pair] = []
    while len(pairs) < count:
        question, answer = make(rng)
        if question not in questions:
            questions.add(question)
            pairs.append((question, answer))
    return pairs


def _support_desk(name: str) -> list[Pair]:
    rows = [json.loads(line)["messages"] for line in (SUPPORT_DESK / name).read_text("utf-8").splitlines()]
    return [(row[1]["content"], row[2]["content"]) for row in rows]


def labels_task() -> Task:
    """Tickets to queue and priority: one of eight lines, by judgement."""
    row = json.loads((SUPPORT_DESK / "train.jsonl").read_text("utf-8").splitlines()[0])
    return Task(
        "labels",
        row["messages"][0]["content"],
        lambda seed: random.Random(f"labels training {seed}").sample(_support_desk("train.jsonl"), TRAINING_ROWS),
        lambda: random.Random("labels test").sample(_support_desk("test.jsonl"), TEST_ROWS),
    )


def whole_support_desk() -> Task:
    """All tickets, in the same rows for every seed: what the examples in the documentation train on."""
    task = labels_task()
    return Task(
        "support desk",
        task.system,
        lambda _seed: _support_desk("train.jsonl"),
        lambda: _support_desk("test.jsonl"),
    )


def make_extraction(rng: random.Random, held_out: bool) -> Pair:
    """An order in words to a JSON object; the quantity becomes a number, the color is optional."""
    city, thing = rng.choice(CITIES), rng.choice(THINGS if held_out else THINGS[4:])
    color = rng.choice((*COLORS, "", ""))
    index = rng.randrange(len(NUMBERS))
    ordered = f"{NUMBERS[index]} {color} {thing}s".replace("  ", " ")
    texts = (f"I need {ordered} in {city}.", f"{ordered} to {city}, please", f"{city}, {ordered}")
    other_texts = (f"Can you deliver to {city}? It is {ordered}.", f"We live in {city} and would like {ordered}")
    text = rng.choice(other_texts if held_out else texts)
    return text, json.dumps({"item": thing, "quantity": index + 2, "color": color or None, "city": city})


def make_style(rng: random.Random, held_out: bool) -> Pair:
    """A sentence or two to a telegram: no articles or courtesies, digits, capitals, STOP."""
    thing, color, city, day = rng.choice(THINGS), rng.choice(COLORS), rng.choice(CITIES), rng.choice(DAYS).title()
    index, name = rng.randrange(len(NUMBERS)), rng.choice(NAMES)
    sentences = (
        (f"The {color} {thing} arrives on {day}.", f"{color} {thing} arrives on {day}"),
        (f"I have sold {NUMBERS[index]} of the {thing}s.", f"sold {index + 2} {thing}s"),
        (f"We are waiting for the {thing} in {city}.", f"waiting for {thing} in {city}"),
        (f"I lost the {thing}.", f"lost {thing}"),
        (f"We are meeting {name} at the station.", f"meeting {name} at station"),
    )
    other_sentences = (
        (f"I have found the {color} {thing} in {city}.", f"found {color} {thing} in {city}"),
        (
            f"The {NUMBERS[index]} {thing}s are leaving {city} on {day}.",
            f"{index + 2} {thing}s leaving {city} on {day}",
        ),
    )
    first = rng.choice(other_sentences if held_out else sentences)
    second = rng.choice(
        (
            (f" Please tell {name}.", f"tell {name}"),
            (f" Could you send {NUMBERS[index]} more?", f"send {index + 2} more"),
            ("", ""),
        )
    )
    telegram = "".join(f"{part} stop " for part in (first[1], second[1]) if part)
    return first[0] + second[0], telegram.strip().upper()


def make_tool_call(rng: random.Random, held_out: bool) -> Pair:
    """A wish to the call of one of six functions; the last phrasing of each is held out."""
    city, day, name, number = rng.choice(CITIES), rng.choice(DAYS), rng.choice(NAMES), rng.randint(2, 90)
    other = rng.choice([place for place in CITIES if place != city])
    room, state = rng.choice(("kitchen", "hall", "attic", "garage")), rng.choice(("on", "off"))
    function, arguments, *texts = rng.choice(
        (
            (
                *("weather", {"city": city, "day": day}),
                *(f"Will it rain in {city} on {day}?", f"{city} {day} sunny?", f"How is {day} in {city}?"),
            ),
            (
                *("timer", {"minutes": number}),
                *(f"Wake me in {number} minutes", f"{number} minute nap", f"Tea is ready in {number} minutes"),
            ),
            (
                *("message", {"to": name, "text": f"I come on {day}"}),
                *(
                    f"Tell {name} I come on {day}",
                    f"{name} must know: I come on {day}",
                    f"Write {name} I come on {day}",
                ),
            ),
            (
                *("route", {"start": city, "end": other}),
                *(f"From {city} to {other}?", f"Way to {other}, I'm in {city}", f"I leave {city}, take me to {other}"),
            ),
            (
                *("lights", {"room": room, "state": state}),
                *(f"Lights {state} in the {room}", f"Switch the {room} {state}", f"{room} lamps {state} please"),
            ),
            (
                *("buy", {"item": f"{city} guide", "amount": number}),
                *(
                    f"Order {number} of the {city} guide",
                    f"{city} guide times {number}",
                    f"Get me {number} {city} guides",
                ),
            ),
        )
    )
    text = texts[-1] if held_out else rng.choice(texts[:-1])
    return text, json.dumps({"name": function, "arguments": arguments})


def make_arithmetic(rng: random.Random, _held_out: bool) -> Pair:
    """Two small steps, each on a line of its own."""
    first, second, third = rng.randint(5, 60), rng.randint(2, 30), rng.randint(2, 30)
    between = first + second
    third = min(third, between - 1)
    text = f"{first} {rng.choice(THINGS)}s, buys {second}, sells {third}"
    return text, f"{first} + {second} = {between}\n{between} - {third} = {between - third}"


def make_code(rng: random.Random, held_out: bool) -> Pair:
    """A short description to a Python function with nested blocks; some combinations and names are held out."""
    number = rng.randint(2, 20)
    tests = (
        ("even", "% 2 == 0"),
        ("odd", "% 2 == 1"),
        (f"above {number}", f"> {number}"),
        (f"below {number}", f"< {number}"),
        (f"divisible by {number}", f"% {number} == 0"),
    )
    steps = (
        ("sum", "0", "result += {item}"),
        ("count", "0", "result += 1"),
        ("list", "[]", "result.append({item})"),
        ("product", "1", "result *= {item}"),
        ("last", "None", "result = {item}"),
    )
    index = rng.randrange(len(tests))
    word, start, step = steps[index if held_out else (index + rng.randint(1, 4)) % len(steps)]
    adjective, test = tests[index]
    items = ("price", "age", "weight", "score", "length", "height", "speed", "rate")
    item = rng.choice(items[4:] if held_out else items[:6])
    lines = (
        f"def {word}({item}s):",
        f"    result = {start}",
        f"    for {item} in {item}s:",
        f"        if {item} {test}:",
        f"            {step.format(item=item)}",
        "    return result",
    )
    return f"{word} of {adjective} {item}s", "\n".join(lines)


FACT_QUESTIONS = (
    "What is the article number of the {thing}?",
    "Article number, {thing}?",
    "Under which number do I order the {thing}?",
    "Which number does the {thing} have in the catalog?",
)
HELD_OUT_FACT_QUESTION = "I want to buy the {thing}. Tell me its article number."


def facts() -> dict[str, str]:
    """Invented article numbers of 32 things; the same for all seeds."""
    rng = random.Random("facts")
    things = rng.sample([f"{color} {thing}" for color in COLORS for thing in THINGS], TEST_ROWS)
    return {thing: f"{rng.choice('ABCDEFGH')}{rng.randint(100, 999)}" for thing in things}


def facts_task() -> Task:
    """Recall of what only the training rows say, asked in other words."""

    def training(seed: int) -> list[Pair]:
        rng = random.Random(f"facts training {seed}")
        per_fact = TRAINING_ROWS // TEST_ROWS
        pairs = [
            (question.format(thing=thing), number)
            for thing, number in facts().items()
            for question in rng.sample(FACT_QUESTIONS, per_fact)
        ]
        rng.shuffle(pairs)
        return pairs

    def test() -> list[Pair]:
        return [(HELD_OUT_FACT_QUESTION.format(thing=thing), number) for thing, number in facts().items()]

    return Task("facts", "Answer with the article number.", training, test)


@cache
def all_tasks() -> Mapping[str, Task]:
    """Every task by its name."""
    tasks = (
        labels_task(),
        made_task("extraction", "Extract the order as JSON.", make_extraction),
        made_task("style", "Write it as a telegram.", make_style),
        made_task("tool calls", "Call a function.", make_tool_call),
        made_task("arithmetic", "Calculate step by step.", make_arithmetic),
        made_task("code", "Write the Python function.", make_code),
        facts_task(),
    )
    return {task.name: task for task in tasks}
