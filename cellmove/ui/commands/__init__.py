"""The commands, one module for each group: parse, call an operation, render."""
