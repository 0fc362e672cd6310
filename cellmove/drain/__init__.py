"""Many moves under limits: a cell emptied over several nights."""
