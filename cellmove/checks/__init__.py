"""The checks before anything is written, by what they look at. Pure functions over a ServerSnapshot."""
