"""What the operator has allowed: the table ``[policy]`` of config.toml, and whether anybody may be asked.

As in nova, where crossing cells is forbidden until a policy rule says otherwise, nothing moves unattended
until the operator has switched that on.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cellmove.core.errors import Refused, Usage

KINDS = ("projects", "flavors", "tags", "hosts")
"""What rules can be about: the server's project (id or name), its flavors (the one that it has and the one
that it gets), its tags, and the host where it is."""

SWITCH = "unattended = true"


@dataclass(frozen=True)
class Policy:
    """The operator's rules.

    :param file: where they stand, or would stand
    :param unattended: moves may begin without anybody being asked
    :param moves_a_day: how many may be begun in any 24 hours; None: as many as you like
    :param allow: patterns by kind; where there are some, one has to match
    :param deny: patterns by kind, none of which may match
    """

    file: str = "config.toml"
    unattended: bool = False
    moves_a_day: int | None = None
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deny: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def has_rules(self) -> bool:
        """Whether anything is to be looked up for it."""
        return bool(self.allow or self.deny or self.moves_a_day is not None)


@dataclass(frozen=True)
class Subject:
    """What the rules are held against.

    :param values: by kind, see :data:`KINDS`
    :param begun: how many moves were begun in the last 24 hours
    """

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    begun: int = 0


@dataclass(frozen=True)
class PolicyViolation:
    """A rule that forbids a move. Its remedy names the file."""

    code: str
    text: str
    remedy: str


def violations(policy: Policy, subject: Subject) -> list[PolicyViolation]:
    """The rules that forbid this move, by name."""
    found: list[PolicyViolation] = []
    for kind in KINDS:
        values = tuple(value for value in subject.values.get(kind, ()) if value)
        said = f"{kind[:-1]} {' or '.join(values)}" if values else f"without any {kind[:-1]}"
        for value in values:
            pattern = next((each for each in policy.deny.get(kind, ()) if fnmatch.fnmatchcase(value, each)), None)
            if pattern is not None:
                text = f'the rule policy.deny.{kind} = "{pattern}" forbids to move it: {kind[:-1]} {value}'
                found.append(PolicyViolation("policy-denied", text, f"it stands in {policy.file}"))
                break
        allowed = policy.allow.get(kind)
        if allowed is not None and not _allows(kind, values, allowed):
            listed = ", ".join(f'"{each}"' for each in allowed) or "nothing"
            text = f"the rule policy.allow.{kind} lets only {listed} be moved; this one is {said}"
            found.append(PolicyViolation("policy-not-allowed", text, f"it stands in {policy.file}"))
    limit = policy.moves_a_day
    if limit is not None and subject.begun >= limit:
        text = (
            f"the rule policy.moves_a_day = {limit} is used up: "
            f"{subject.begun} moves were begun in the last 24 hours (those of this journal)"
        )
        found.append(PolicyViolation("policy-day", text, f"wait, or raise it in {policy.file}"))
    return found


def _allows(kind: str, values: Sequence[str], patterns: Sequence[str]) -> bool:
    """Both flavors have to be allowed; of a project's id and name, and of many tags, one is enough."""
    matches = [any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns) for value in values]
    return bool(matches) and (all(matches) if kind == "flavors" else any(matches))


def read_policy(table: Mapping[str, Any], file: str) -> Policy:
    """The table as it was read.

    :raises Usage: a key that is not known, or a value of the wrong type
    """
    known = {"unattended": bool, "moves_a_day": int, "allow": dict, "deny": dict}
    for key, value in table.items():
        if key not in known:
            raise Usage(f"{file}: unknown key policy.{key}; known: {', '.join(known)}")
        if not isinstance(value, known[key]) or (known[key] is int and isinstance(value, bool)):
            raise Usage(f"{file}: policy.{key} has a value of the wrong type ({type(value).__name__})")
    limit = table.get("moves_a_day")
    if limit is not None and limit < 0:
        raise Usage(f"{file}: policy.moves_a_day cannot be below 0")
    rules = {name: _patterns(table.get(name, {}), f"{file}: policy.{name}") for name in ("allow", "deny")}
    return Policy(file, table.get("unattended", False), limit, rules["allow"], rules["deny"])


def _patterns(table: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for kind, value in table.items():
        if kind not in KINDS:
            raise Usage(f"{where}: unknown key {kind}; known: {', '.join(KINDS)}")
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise Usage(f"{where}.{kind} has to be a pattern or a list of patterns")
        found[kind] = tuple(patterns)
    return found


# --- asking ---


@dataclass
class Consent:
    """Whether the person who typed the command agrees; asked at most once a command.

    :param yes: the command line said so already
    :param prompt: shows a question and gives the answer; None when nobody is at a terminal
    """

    yes: bool = False
    prompt: Callable[[str], str] | None = None
    given: bool = False


def unattended(policy: Policy, consent: Consent) -> PolicyViolation | None:
    """What forbids this run because nobody watches it; None when somebody does, or the switch is on.

    ``--yes`` does not help: it answers the question for a person who is there. A line in a crontab, or
    a script on another machine that calls over ssh without a terminal, would carry it for ever.
    """
    if policy.unattended or consent.prompt is not None:
        return None
    return PolicyViolation(
        "policy-unattended",
        "nobody is at a terminal to be asked, and moves without anybody watching are not switched on",
        f"add to {policy.file}, under [policy], the line {SWITCH}; or type the command at a terminal (ssh -t)",
    )


def require_somebody(policy: Policy, consent: Consent, again: str) -> None:
    """Refuse what nobody watches.

    :raises Refused: nobody can be asked, and the switch is not on. Nothing was written
    """
    hindrance = unattended(policy, consent)
    if hindrance is not None:
        raise Refused(f"{hindrance.text}; {hindrance.remedy}", state="nothing was written", next_command=again)


def ask(policy: Policy, consent: Consent, question: str, again: str) -> None:
    """Go on only with somebody's consent; every command that writes to the cloud calls this first.

    :param question: one line: what will happen
    :param again: what to type to be asked again
    :raises Refused: nobody can be asked, or the answer is no. Nothing was written
    """
    if policy.unattended or consent.given:
        return
    require_somebody(policy, consent, again)
    if not consent.yes and consent.prompt is not None:
        answer = consent.prompt(f"{question}\nGo on? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            raise Refused("cancelled at the prompt", state="nothing was written", next_command=again)
    consent.given = True
