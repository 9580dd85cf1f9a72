"""The command line: `fedsim run`, `list`, `compare`, `tune`, `check` and `demo`."""
