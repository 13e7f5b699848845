"""Exact and near duplicates between records."""
