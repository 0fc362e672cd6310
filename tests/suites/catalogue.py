"""Every suite whose units are run in shards. A new one is one more entry of :data:`SUITES`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.proof import faulty_drain, inventory, lost_journals, mutations, runner
from tests.suites.pytest_units import ROOT, Tests
from tests.suites.suite import Run, Suite
from tests.support import mutation
from tests.support.sandbox.fixtures import Fixtures

CORES = os.cpu_count() or 2
LAB = frozenset({"lab"})
QEMU_IMG = frozenset({"qemu-img"})


# the proof


def _proof_units(*, disks: bool) -> list[str]:
    """Every case that the smoke proof leaves out; with or without streamed disks."""
    fixtures = Fixtures()
    smoke = set(inventory.smoke_names(fixtures, disks=disks))
    everything = inventory.names(fixtures, long=True, disks=disks)
    return [name for name in everything if inventory.needs_disks(name) == disks and name not in smoke]


def _play_proof(names: Sequence[str]) -> Run:
    result = runner.run_all(names)
    code = runner.report(result)
    return Run(code, {name: seconds / runner.JOBS for name, seconds in result.spent.items()})


def _family(name: str) -> str:
    return name.partition(":")[0]


# the proof's mutants, lost journals, drains with faults


def _timed_mutant(mutant: str) -> tuple[str, str, float]:
    begun = time.monotonic()
    return mutant, mutations.verdict(*mutations.try_one(mutant)), time.monotonic() - begun


def _play_mutants(mutants: Sequence[str]) -> Run:
    spent, alive = {}, []
    with multiprocessing.get_context("spawn").Pool(CORES, maxtasksperchild=1) as pool:
        for mutant, wrong, seconds in pool.imap_unordered(_timed_mutant, mutants):
            spent[mutant] = seconds / CORES
            alive += [wrong] if wrong else []
    sys.stdout.write("\n".join([f"{len(mutants)} mutants, {len(alive)} wrong", *alive]) + "\n")
    return Run(1 if alive else 0, spent)


def _lost_units() -> list[str]:
    return [":".join(case) for case in lost_journals.names(Fixtures(), lost_journals.SHAPES_TRIED)]


def _timed_losses(names: list[str]) -> list[tuple[str, list[str], float]]:
    found = []
    for name in names:
        begun = time.monotonic()
        ((_case, problems),) = lost_journals.work([lost_journals.Case(*name.split(":"))])
        found.append((name, problems, time.monotonic() - begun))
    return found


def _play_losses(names: Sequence[str]) -> Run:
    spent, wrong = {}, 0
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        for results in pool.imap_unordered(_timed_losses, [list(names[at : at + 8]) for at in range(0, len(names), 8)]):
            for name, problems, seconds in results:
                spent[name] = seconds / CORES
                wrong += bool(problems)
                for problem in problems:
                    sys.stdout.write(
                        f"FAILED {name}\n  {problem}\nreplay: python -m tests.proof.lost_journals '{name}'\n"
                    )
    sys.stdout.write(f"{len(names)} lost journals, {wrong} ended badly\n")
    return Run(1 if wrong else 0, spent)


def _play_drains(seeds: Sequence[str]) -> Run:
    spent, bad = {}, 0
    for seed in seeds:
        told = faulty_drain.play(int(seed))
        spent[seed] = told.seconds
        bad += bool(told.problems)
        sys.stdout.write(f"{told.text}\n")
    return Run(1 if bad else 0, spent)


# mutants of what writes, deletes or locks


def _timed_mutation(unit: str) -> tuple[str, str, float]:
    """Run the mutants of one unit in a process of its own; what it printed if one survived."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "tests.support.mutation", unit]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = f"{unit}\n{answer.stdout}{answer.stderr}" if answer.returncode else ""
    return unit, said, time.monotonic() - begun


def _play_mutation(units: Sequence[str]) -> Run:
    spent, wrong = {}, 0
    with ThreadPoolExecutor(CORES) as threads:
        for unit, said, seconds in threads.map(_timed_mutation, units):
            spent[unit] = seconds / CORES
            wrong += bool(said)
            sys.stdout.write(said)
    sys.stdout.write(f"{len(units)} units of mutants, {wrong} with survivors\n")
    return Run(1 if wrong else 0, spent)


# tests of pytest that are marked long


def _every(units: Callable[..., list[str]], **how: bool) -> Callable[[], list[str]]:
    return lambda: units(**how)


PYTEST_SUITES = {
    "sandbox": Tests("long tests against the sandbox", ("tests/sandbox", "tests/proof"), "long", workers=CORES + 1),
    "disks": Tests("long tests of disks that travel", ("tests/ssh",), "long", workers=CORES + 1, tools=QEMU_IMG),
    "lab": Tests(
        "long tests against the lab",
        ("tests/lab",),
        "long and not alone and not kvm",
        ("--dist", "loadgroup"),
        workers=2,
        needs=LAB,
    ),
    "lab, alone": Tests(
        "long tests that break a host of the lab for everybody", ("tests/lab",), "long and alone and not kvm", needs=LAB
    ),
    "guests": Tests(
        "long tests on real guests",
        ("tests/lab/kvm",),
        "long",
        environment={"CELLMOVE_LAB_KVM": "required"},
        needs=frozenset({"lab", "kvm"}),
    ),
}

SUITES = (
    Suite("proof", "the proof's cases that the smoke proof leaves out", _every(_proof_units, disks=False), _play_proof,
          group=_family),
    Suite("proof of disks", "the same for streamed disks", _every(_proof_units, disks=True), _play_proof, tools=QEMU_IMG,
          group=_family),
    Suite("mutants", "whether the proof notices a missing intent, undo or probe", lambda: list(mutations.mutants()),
          _play_mutants, tools=QEMU_IMG),
    Suite("lost journals", "a run is killed at each point, its journal is lost, the move is adopted", _lost_units,
          _play_losses, tools=QEMU_IMG, group=_family),
    Suite("faulty drains", "a cell of 100 servers is drained while calls fail and the run is killed; by seeds",
          lambda: [str(seed) for seed in range(1, faulty_drain.MANY_SEEDS + 1)], _play_drains, group=lambda _seed: ""),
    Suite("mutation", "mutants of what writes, deletes or locks", mutation.units, _play_mutation),
    *(Suite(name, tests.words, tests.collect, tests.run, tests.needs, tests.tools) for name, tests in PYTEST_SUITES.items()),
)  # fmt: skip
