"""One function for each command: plan, run, resume, roll back, verify, hold, audit, adopt.

No module here parses arguments or formats text for a terminal.
"""
