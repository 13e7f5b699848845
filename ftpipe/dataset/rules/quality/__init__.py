"""FT8: quality. ``text`` checks single texts, ``dataset`` all records together."""

from __future__ import annotations

from ftpipe.dataset.rules.quality import dataset, text

GROUP = dataset.GROUP
GROUP.rules += text.GROUP.rules
