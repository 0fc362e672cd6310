"""Runs actions and records them: action, executor, retry, events, journal, locks, integrity.

No module here knows a step or an action by name.
"""
