"""Checks of the installation and repair of the registry."""
