"""The command line: options, argument types, rendering (text, live table, JSON, HTML), exit codes."""
