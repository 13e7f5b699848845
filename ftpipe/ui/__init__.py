"""The web pages of ``ftpipe ui``: runs, models and evaluations of a project, rendered on the server."""
