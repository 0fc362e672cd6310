"""The operator's rules (the table ``[policy]`` of config.toml), and the operator's consent to a command.

nova forbids moves between cells until a policy rule allows them. In the same way cellmove runs unattended only where the
operator has set ``unattended``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cellmove.core.errors import Refused, Usage
from cellmove.core.toml_table import read_table

KINDS = ("projects", "flavors", "tags", "hosts")
"""The properties of a server that rules match: its project (id or name), its flavors (present and new), its tags, its
present host."""

POLICY_KEYS: Mapping[str, type] = {"unattended": bool, "moves_a_day": int, "allow": dict, "deny": dict}

UNATTENDED_LINE = "unattended = true"
"""The line of config.toml that allows unattended moves."""


@dataclass(frozen=True)
class Policy:
    """The operator's rules.

    :param file: the file that holds the rules, or would hold them
    :param unattended: whether moves may start without the operator's consent
    :param moves_a_day: the number of moves that may start in any 24 hours; None: no limit
    :param allow: patterns by kind; one pattern of each kind has to match
    :param deny: patterns by kind; none may match
    """

    file: str = "config.toml"
    unattended: bool = False
    moves_a_day: int | None = None
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deny: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def has_rules(self) -> bool:
        """Whether there is any rule about the properties or the number of moves."""
        return bool(self.allow or self.deny or self.moves_a_day is not None)


@dataclass(frozen=True)
class Subject:
    """A server as far as the rules look at it.

    :param values: its properties by kind, see :data:`KINDS`
    :param started_today: the number of moves that this journal started in the last 24 hours
    """

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    started_today: int = 0


@dataclass(frozen=True)
class PolicyViolation:
    """A rule that forbids a move.

    :param code: for scripts
    :param text: the rule and the property that it forbids
    :param remedy: the place of the rule
    """

    code: str
    text: str
    remedy: str


def violations(policy: Policy, subject: Subject) -> list[PolicyViolation]:
    """Return the rules that forbid a move."""
    found: list[PolicyViolation] = []
    remedy = f"change the rule in {policy.file}"
    for kind in KINDS:
        values = tuple(value for value in subject.values.get(kind, ()) if value)
        for value in values:
            pattern = next((each for each in policy.deny.get(kind, ()) if fnmatch.fnmatchcase(value, each)), None)
            if pattern is not None:
                text = f'the rule policy.deny.{kind} = "{pattern}" forbids the move: {kind[:-1]} {value}'
                found.append(PolicyViolation("policy-denied", text, remedy))
                break
        allowed = policy.allow.get(kind)
        if allowed is not None and not _allows(kind, values, allowed):
            listed = ", ".join(f'"{each}"' for each in allowed) or "nothing"
            actual = f"{kind[:-1]} {' or '.join(values)}" if values else f"no {kind[:-1]}"
            text = f"the rule policy.allow.{kind} allows only {listed}; this server has {actual}"
            found.append(PolicyViolation("policy-not-allowed", text, remedy))
    limit = policy.moves_a_day
    if limit is not None and subject.started_today >= limit:
        text = (
            f"the limit policy.moves_a_day = {limit} is reached: "
            f"this journal started {subject.started_today} moves in the last 24 hours"
        )
        found.append(PolicyViolation("policy-day", text, f"wait, or raise the limit in {policy.file}"))
    return found


def _allows(kind: str, values: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether values match: every flavor has to, but one name of the project, the host or the tags is enough."""
    matches = [any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns) for value in values]
    return bool(matches) and (all(matches) if kind == "flavors" else any(matches))


def read_policy(value: object, file: str) -> Policy:
    """Read the table ``[policy]``.

    :param value: as tomllib gives it; None: there is none
    :param file: the file that holds it, for messages
    :raises Usage: an unknown key, or a value that cannot be used
    """
    table = read_table(value, POLICY_KEYS, file, "policy")
    limit = table.integer("moves_a_day")
    if limit is not None and limit < 0:
        raise Usage(f"{file}: policy.moves_a_day cannot be below 0")
    rules = {name: _patterns(table.mapping(name), f"{file}: policy.{name}") for name in ("allow", "deny")}
    return Policy(file, table.flag("unattended"), limit, rules["allow"], rules["deny"])


def _patterns(table: Mapping[str, object], where: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for kind, value in table.items():
        if kind not in KINDS:
            raise Usage(f"{where}: unknown key {kind}; known: {', '.join(KINDS)}")
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise Usage(f"{where}.{kind} has to be a pattern or a list of patterns")
        found[kind] = tuple(patterns)
    return found


@dataclass
class Consent:
    """The operator's consent to one command; the operator is asked at most once.

    :param yes: the command line has ``--yes``
    :param prompt: shows a question and returns the answer; None when there is no terminal
    """

    yes: bool = False
    prompt: Callable[[str], str] | None = None
    given: bool = False


def unattended(policy: Policy, consent: Consent) -> PolicyViolation | None:
    """Return the refusal of an unattended run; None when there is a terminal, or the rules allow such runs.

    ``--yes`` answers the question of an operator at a terminal. It does not make a run in cron, or over ssh without a
    terminal, an attended one.
    """
    if policy.unattended or consent.prompt is not None:
        return None
    return PolicyViolation(
        "policy-unattended",
        "there is no terminal to ask for consent, and unattended moves are not allowed",
        f"add to {policy.file}, under [policy], the line {UNATTENDED_LINE}; or type the command at a terminal (ssh -t)",
    )


def require_attended(policy: Policy, consent: Consent, again: str) -> None:
    """Refuse an unattended run where the rules do not allow one.

    :param again: the command line to type instead
    :raises Refused: there is no terminal, and unattended moves are not allowed; nothing was written
    """
    violation = unattended(policy, consent)
    if violation is not None:
        raise Refused(f"{violation.text}; {violation.remedy}", state="nothing was written", next_command=again)


def ask(policy: Policy, consent: Consent, question: str, again: str) -> None:
    """Ask the operator for consent. Every command that writes to the cloud calls this first.

    :param question: one line that says what the command will do
    :param again: the command line that asks again
    :raises Refused: there is no terminal, or the answer is no; nothing was written
    """
    if policy.unattended or consent.given:
        return
    require_attended(policy, consent, again)
    if not consent.yes and consent.prompt is not None:
        answer = consent.prompt(f"{question}\nContinue? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            raise Refused("cancelled at the prompt", state="nothing was written", next_command=again)
    consent.given = True
