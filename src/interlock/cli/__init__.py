"""The command ``interlock``: hold a name while a command runs, look at a scope, clear it. See `interlock.cli.main`."""
