"""FT8: quality; ``texts`` looks at one text at a time, ``sets`` at what is unusual among all records."""

from __future__ import annotations

from ftpipe.dataset.rules.quality import dataset as sets
from ftpipe.dataset.rules.quality import text

FAMILY = sets.FAMILY
FAMILY.rules += text.FAMILY.rules
