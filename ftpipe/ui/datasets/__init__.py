"""Datasets of the project for the page: files, checks in processes of their own, rows and fixes."""
