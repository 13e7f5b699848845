"""Hyperparameters of a model of OpenAI at other hosts: each is stated, with old value, new value and reason."""

from __future__ import annotations

import pytest

from ftpipe.migration.nearest_hyperparameters import nearest_hyperparameters
from ftpipe.providers.profiles import find_profile
from ftpipe.records import Hyperparameters, Method, Model
from ftpipe.records.migration import HyperparameterChange

RESOLVED = Hyperparameters(n_epochs=4, batch_size=2, learning_rate_multiplier=1.8)


def old_model(**hyperparameters: object) -> Model:
    """A model that was tuned from gpt-4o-mini."""
    return Model(
        id="ft:gpt-4o-mini-2024-07-18:acme::1",
        base="gpt-4o-mini-2024-07-18",
        provider="openai",
        endpoint="https://api.openai.com/v1",
        job_id="ftjob-1",
        file_id="file-1",
        dataset_sha256="0" * 64,
        resolved=RESOLVED.model_copy(update=hyperparameters),
        created_at=1,
    )


def changes_for(target: str, model: Model) -> tuple[Hyperparameters, dict[str, HyperparameterChange]]:
    """The new hyperparameters, and the changes by name."""
    new, changes = nearest_hyperparameters(
        model, find_profile(target), source_target="openai", method=Method.SUPERVISED, examples=50
    )
    return new, {change.name: change for change in changes}


@pytest.mark.parametrize("target", ["local", "nebius", "azure"])
def test_each_hyperparameter_is_stated(target: str) -> None:
    _, changes = changes_for(target, old_model())
    assert {"n_epochs", "batch_size", "learning_rate_multiplier"} <= changes.keys()
    assert all(change.reason for change in changes.values())


def test_multiplier_that_openai_chose_is_1_on_this_machine() -> None:
    new, changes = changes_for("local", old_model())
    assert (new.n_epochs, new.batch_size, new.learning_rate_multiplier) == (4, 2, 1.0)
    assert (changes["learning_rate_multiplier"].before, changes["learning_rate_multiplier"].after) == ("1.8", "1")


def test_azure_takes_what_openai_took() -> None:
    new, changes = changes_for("azure", old_model())
    assert new.learning_rate_multiplier == 1.8
    assert changes["learning_rate_multiplier"].reason == "as before"


def test_together_takes_an_absolute_rate_and_a_batch_size_of_its_own() -> None:
    """1.8 is what OpenAI chooses for this base, so it becomes Together's own default."""
    new, changes = changes_for("together", old_model())
    assert (new.n_epochs, new.batch_size, new.learning_rate_multiplier) == (4, "auto", "auto")
    assert new.learning_rate == pytest.approx(1e-5)
    assert (changes["learning_rate_multiplier"].before, changes["learning_rate_multiplier"].after) == ("1.8", "1")
    assert "host's default" in changes["learning_rate"].reason
    assert "packed sequences" in changes["batch_size"].reason


def test_together_does_not_choose_the_epochs() -> None:
    new, changes = changes_for("together", old_model(n_epochs="auto"))
    assert new.n_epochs == 3
    assert "does not choose them" in changes["n_epochs"].reason


def test_model_without_known_hyperparameters_leaves_the_choice_to_the_host() -> None:
    new, changes = changes_for("local", old_model().model_copy(update={"resolved": None}))
    assert (new.n_epochs, new.batch_size, new.learning_rate_multiplier) == ("auto", "auto", "auto")
    assert {change.reason for change in changes.values()} == {"the host chooses it", "the host chooses them"}
