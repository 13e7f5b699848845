"""The datasets of one project: their files, indexes, checks, token masks and losses."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from ftpipe.config import Settings
from ftpipe.dataset.line_index import LineIndex
from ftpipe.dataset.token_mask import MaskRenderer
from ftpipe.errors import FtpipeError
from ftpipe.providers.profiles import Profile, find_profile, load_profiles
from ftpipe.registry import Registry
from ftpipe.ui.datasets.check_result import RankingHead, find_rankings, import_losses
from ftpipe.ui.datasets.checks import CheckRequest, DatasetTasks
from ftpipe.ui.datasets.files import DatasetFiles
from ftpipe.ui.datasets.token_losses import Ids, LossModel, TokenLosses

DEFAULT_PROVIDER = "local"
LOSSES_FOLDER = "losses"
"""Where ``ftpipe losses`` stores its rankings, in the state folder."""
MAX_INDEXES = 16
MAX_RENDERERS = 4
MAX_NAMED_RUNS = 200


class ProjectDatasets:
    """Everything that the pages need to show data.

    Args:
        folder: The project's folder.
        state_dir: Its state folder.
        settings: The configuration.
        registry: Its runs name further files.
        answer_files: The files that the page of answers writes.
        token_logprobs: Log-probabilities of the tokens of a text under a model.
    """

    def __init__(
        self,
        folder: Path,
        state_dir: Path,
        settings: Settings,
        registry: Registry,
        *,
        answer_files: Iterable[Path] = (),
        token_logprobs: Callable[[LossModel, Ids], Sequence[float | None]],
    ) -> None:
        self._state_dir, self._settings, self._registry = state_dir, settings, registry
        self._answer_files = tuple(answer_files)
        self.files = DatasetFiles(folder, self._named)
        self.tasks = DatasetTasks(state_dir)
        self.token_losses = TokenLosses(token_logprobs)
        self._indexes: OrderedDict[Path, LineIndex] = OrderedDict()
        self._make_renderer = lru_cache(maxsize=MAX_RENDERERS)(MaskRenderer)
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the processes that check."""
        self.tasks.close()

    @property
    def profiles(self) -> dict[str, Profile]:
        """The providers of the configuration by name."""
        return dict(load_profiles(self._settings.config.providers))

    def profile(self, name: str = "") -> Profile:
        """A provider by name; by default that of the configuration, or this machine.

        Raises:
            ConfigError: There is no such provider.
        """
        return find_profile(name or self._settings.config.provider or DEFAULT_PROVIDER, self._settings.config.providers)

    def index(self, path: Path) -> LineIndex:
        """The index of a file, made again if the file has changed."""
        with self._lock:
            known = self._indexes.get(path)
        if known is not None and known.is_current:
            return known
        index = LineIndex.build(path)
        with self._lock:
            self._indexes[path] = index
            self._indexes.move_to_end(path)
            while len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)
        return index

    def mask_renderer(self, request: CheckRequest) -> MaskRenderer:
        """What shows the tokens of rows as a check counts them."""
        return self._make_renderer(target=request.target, model=request.model, max_length=request.max_length)

    def rankings(self, data_sha256: str) -> list[RankingHead]:
        """The losses that are known of a dataset."""
        return find_rankings(self._state_dir / LOSSES_FOLDER, data_sha256)

    def losses(self, ranking: RankingHead) -> Path:
        """The losses of a ranking as a table."""
        return import_losses(ranking.path, self.tasks.folder / "losses")

    def models_trained_on(self, data_sha256: str) -> list[str]:
        """The models of this machine that were trained on a dataset, the newest first."""
        models = self._registry.models.recent(MAX_NAMED_RUNS)
        return [
            model.id for model in models if model.dataset_sha256 == data_sha256 and self._tells_losses(model.provider)
        ]

    def loss_models(self, base: str) -> list[LossModel]:
        """What tells the losses of tokens: the models of this machine with a base, the newest first, and the base."""
        models = self._registry.models.recent(MAX_NAMED_RUNS)
        tuned = [LossModel(one.id, one.provider) for one in models if one.base == base]
        return [*(one for one in tuned if self._tells_losses(one.provider)), LossModel(base, DEFAULT_PROVIDER)]

    def _tells_losses(self, provider: str) -> bool:
        try:
            return find_profile(provider, self._settings.config.providers).has_row_losses
        except FtpipeError:
            return False

    def _named(self) -> Iterator[tuple[str, Path]]:
        config = self._settings.config
        yield from (("project", path) for path in (config.data, config.validation) if path)
        yield from (("answers", path) for path in self._answer_files)
        for run in self._registry.runs.recent(MAX_NAMED_RUNS):
            for dataset in (run.dataset, run.validation):
                if dataset is not None and dataset.path.is_absolute():
                    yield "run", dataset.path
