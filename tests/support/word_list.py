"""Words that code, messages and documents do not use: ``python -m tests.support.word_list [PATH…]``.

Identifiers are compared whole and with their case. Words of prose are looked for in strings, comments and documents,
whatever their case. A string that is nothing but a key of ``-f json`` may keep its spelling, and so may a word in
backquotes. ``NOT_YET`` lists the files that still have such words; a file that has none any more is to be removed
from it.
"""

from __future__ import annotations

import fnmatch
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

IDENTIFIERS: Mapping[str, str] = {
    **dict.fromkeys(("Wish", "wish"), "DrainOptions, MoveRequest, Destination"),
    **dict.fromkeys(("Happening",), "DrainEvent"),
    **dict.fromkeys(("Story", "Tale", "story", "tale", "told"), "DrainReport, ServerReport, generated_at, report"),
    **dict.fromkeys(("Shift", "Job"), "Worker, MoveJob"),
    **dict.fromkeys(("Doorkeeper", "Turnstile", "door", "turned_away"), "HostLimiter, Semaphore, rejected"),
    **dict.fromkeys(("Room", "room"), "CellCapacity, capacity"),
    "places": "endpoints",
    "Answers": "ApiCache",
    **dict.fromkeys(("Seen", "Finding"), "ProbeOutcome, ProbeResult, CheckResult, Leftover"),
    **dict.fromkeys(("Check", "Broken", "Loss"), "CheckResult, PolicyViolation, DataLoss"),
    **dict.fromkeys(("Picture", "picture", "pictures"), "ServerSnapshot, snapshot"),
    **dict.fromkeys(("seal", "sealed", "Mark", "holder", "holder_of"), "integrity, OwnershipMark, owner"),
    **dict.fromkeys(("natively", "evidence"), "adopt_native, adopt_inspect"),
    **dict.fromkeys(("Traces", "End", "Ends"), "ObservedState, CellState, Endpoints"),
    **dict.fromkeys(("ending", "Ending", "closing"), "decommission, RunResult, cordon"),
    **dict.fromkeys(("why_not", "orphans", "bury"), "skip_reason, expired_leases, release_all"),
    **dict.fromkeys(("Knocks", "doubt", "FRESH"), "BrokerHealth, invalidate, PROBE_TTL_SECONDS"),
    **dict.fromkeys(("patiently", "insists"), "with_retry, retry_conflicts"),
    **dict.fromkeys(("takes_all_back", "joined", "again_from", "has_another"), "rolls_back_move, retry_from, …"),
    **dict.fromkeys(("aim", "is_on_the_way"), "goal_state, is_running_to_goal"),
    "facts": "the plan and the results of actions, typed",
    **dict.fromkeys(("Left", "Unbreakable", "Lively", "Plain"), "EarlyExit, SafeStream, LiveRenderer, LineRenderer"),
    **dict.fromkeys(("SAID", "AGAIN", "SOON", "CROWDED"), "a name that says what the constant is, and its unit"),
    **dict.fromkeys(("whoever", "somebody", "from_whom"), "the actor"),
    **dict.fromkeys(("mend", "mends", "mended", "mender", "menders", "MENDERS", "MENDED"), "repair"),
    **dict.fromkeys(("storm", "weather", "forge", "meddle", "rot"), "fault_injection, fork_server, concurrent_user, …"),
}
"""Identifiers that are not used, and what to use instead."""

PROSE: Mapping[str, str] = {
    r"somebody|someone|whoever|whomever": "name the actor",
    r"nobody|anybody|no one": "name the actor",
    r"what is left|what was begun|what has begun": "subject first, then verb",
    r"(?:take|takes|took|taken|taking|takes? (?:it|them|all|everything)) back": "roll back",
    r"brings? (?:it )?home": "roll back",
    r"mend|mends|mended|mending": "repair",
    r"(?:come|comes|came|coming) to nothing": "fail",
    r"(?:is|was) not the turn of": "Cannot run …",
    r"in hand": "current",
    r"patiently|doorkeeper|turnstile": "see the table of terms",
    r"(?:the|this) house|(?:the|this) floor": "package, layer",
}
"""What prose does not say, as regular expressions of whole words, and what to say instead."""

EXCEPTIONS: Mapping[str, tuple[str, ...]] = {
    "tests/support/word_list.py": ("*",),
    "tests/unit/test_word_list.py": ("*",),
    "cellmove/engine/integrity.py": ("seal",),  # a column of the journal
    "cellmove/engine/journal_upgrade.py": ("seal",),
    "cellmove/drain/queue.py": ("wish",),  # a column of the queue
    "cellmove/ui/drain_types.py": ("ending", "room", "wish"),  # keys of documents
}
"""Words that a file may use, in lower case, and why; ``*``: all of them."""

NOT_YET: tuple[str, ...] = (
    "bench/*",
    "cellmove/db/*",
    "cellmove/drain/*",
    "cellmove/engine/executor.py",
    "cellmove/engine/retry.py",
    "cellmove/hosts/*",
    "cellmove/operations/*",
    "cellmove/sandbox/*",
    "cellmove/steps/*",
    "cellmove/ui/move_text.py",
    "lab/*",
    "tests/lab/*",
    "tests/packaging/*",
    "tests/proof/*",
    "tests/sandbox/*",
    "tests/scenarios/*",
    "tests/ssh/*",
    "tests/suites/*",
    "tests/support/*",
    "tests/unit/cloud/*",
    "tests/unit/db/*",
    "tests/unit/engine/test_retry.py",
    "tests/unit/hosts/*",
    "tests/unit/lab/*",
    "tests/unit/sandbox/*",
    "tests/unit/steps/*",
    "tests/unit/suites/*",
)
"""Patterns of files that are still to be reworded."""

_PROSE = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): instead for words, instead in PROSE.items()}
_STRING = re.compile(r"^[a-zA-Z]*('''|\"\"\"|'|\")(.*)\1$", re.DOTALL)
_JSON_KEY = re.compile(r"[a-z][a-z_]*")
_CONTEXTLIB_CLOSING = re.compile(r"from contextlib import [^\n]*\bclosing\b")
_BACKQUOTED = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Hit:
    """A word that is not to be used, and where it stands."""

    path: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}; instead: {self.instead}"


def hits_of(path: str, text: str) -> list[Hit]:
    """Return the words of a file that are not to be used."""
    allowed = EXCEPTIONS.get(path, ())
    if "*" in allowed:
        return []
    found = list(_code_hits(path, text) if path.endswith(".py") else _prose_hits(path, _BACKQUOTED.sub("", text), 1))
    if _CONTEXTLIB_CLOSING.search(text):
        found = [hit for hit in found if hit.word != "closing"]
    return [hit for hit in found if hit.word.lower() not in allowed]


def _code_hits(path: str, text: str) -> Iterator[Hit]:
    module = Path(path).stem
    if module in IDENTIFIERS:
        yield Hit(path, 1, module, IDENTIFIERS[module])
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.NAME and token.string in IDENTIFIERS:
            yield Hit(path, line, token.string, IDENTIFIERS[token.string])
        elif token.type == tokenize.COMMENT:
            yield from _prose_hits(path, token.string, line)
        elif token.type == tokenize.STRING:
            match = _STRING.match(token.string)
            content = match[2] if match else token.string
            if not _JSON_KEY.fullmatch(content):
                yield from _prose_hits(path, content, line)


def _prose_hits(path: str, text: str, first_line: int) -> Iterator[Hit]:
    for pattern, instead in _PROSE.items():
        for match in pattern.finditer(text):
            yield Hit(path, first_line + text.count("\n", 0, match.start()), match[0], instead)


def _tracked(paths: list[str]) -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--", *(paths or ["*.py", "*.md"])]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [path for path in listed if path.endswith((".py", ".md")) and (ROOT / path).is_file()]


def main(arguments: list[str]) -> int:
    """Print every word that is not to be used; named files are read although they stand in ``NOT_YET``."""
    open_patterns = set(NOT_YET)
    wrong: list[Hit] = []
    for path in _tracked(arguments):
        found = hits_of(path, (ROOT / path).read_text(encoding="utf-8"))
        patterns = {pattern for pattern in NOT_YET if fnmatch.fnmatch(path, pattern)}
        if found:
            open_patterns -= patterns
        if arguments or not patterns:
            wrong += found
    needless = [] if arguments else sorted(open_patterns)
    sys.stdout.write("".join(f"{hit}\n" for hit in wrong))
    sys.stdout.write("".join(f"{pattern} in NOT_YET has no such words any more: remove it\n" for pattern in needless))
    return 1 if wrong or needless else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
