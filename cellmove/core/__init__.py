"""Plain data and what needs nothing else: moves, requests, errors, the clock, settings, policy, names.

No module here talks to a cloud or to the journal.
"""
