"""Tests of the documentation site, its generated pages and the workflows, and the generator of those pages."""
