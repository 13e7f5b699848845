"""The files that ``ftpipe init`` writes."""
