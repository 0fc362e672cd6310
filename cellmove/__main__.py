"""``python -m cellmove``: the same as the command ``cellmove``."""

from cellmove.cli import main

if __name__ == "__main__":
    main()
