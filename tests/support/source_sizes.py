"""Check in ``make lint``: no file of the package over 400 lines, no function over 50 lines.

The lines of a function are those of its body without its docstring. An exception names its reason, and an exception that
is no longer needed is an error, too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "cellmove"

FILE_LINES = 400
FUNCTION_LINES = 50

EXCEPTIONS: Mapping[str, str] = {
    "operations/adopt_inspect.py:plan_from": "not divided yet",
    "steps/revert.py": "not divided yet",
    "steps/survey.py": "not divided yet",
    "cloud/identity.py": "not divided yet",
    "db/survey.py": "not divided yet",
    "engine/executor.py": "not divided yet",
    "operations/adopt_inspect.py": "not divided yet",
    "operations/adopt_inspect.py:half_made": "not divided yet",
    "sandbox/rest_compute.py:add_nova": "one branch for each route of the API",
    "sandbox/rest_network.py:add_neutron": "one branch for each route of the API",
    "sandbox/rest_storage.py:add_cinder": "one branch for each route of the API",
    "sandbox/rest_placement.py:add_placement": "one branch for each route of the API",
    "steps/plan.py": "not divided yet",
    "steps/prep_dest.py": "not divided yet",
}
"""For a file (``db/survey.py``) or a function (``steps/plan.py:gather``): why it may be longer."""


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def too_long(package: Path) -> Iterator[tuple[str, int]]:
    """Yield each file and function over its limit, with its number of lines."""
    for path in sorted(package.rglob("*.py")):
        name, text = path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")
        count = len(text.splitlines())
        if count > FILE_LINES:
            yield name, count
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and lines_of(node) > FUNCTION_LINES:
                yield f"{name}:{node.name}", lines_of(node)


def main() -> int:
    """Print what is too long and is no exception, and exceptions that are not needed; 0 when there is neither."""
    found = dict(too_long(PACKAGE))
    wrong = [f"{name}: {count} lines" for name, count in found.items() if name not in EXCEPTIONS]
    wrong += [f"{name}: the exception is not needed" for name in EXCEPTIONS if name not in found]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
