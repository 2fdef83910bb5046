"""Paths under the data root, complete and locked files, JSON files, and the settings, errors and end of a command."""
