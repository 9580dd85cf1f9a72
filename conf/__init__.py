"""Hydra's groups and their options, YAML alone: setuptools packages what it can take for a
module."""
