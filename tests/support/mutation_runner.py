"""Runs mutants of one module: pytest collects once, then every mutant is a fork that runs the tests that reach it.

A mutant inside a function is made by giving the function other code, in the fork: everything that imported it before
sees that, too. A mutant at module level (a constant, a default, a decorator, an action of a step) needs the module to
be imported anew, with other source, and the tests collected anew, which costs about a second.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.support.mutants import Mutant

ROOT = Path(__file__).parents[2]
KILLED, SURVIVED, NOT_REACHED, TIMED_OUT, BROKEN = "killed", "survived", "not reached", "timed out", "broken"

CPU_SECONDS = 4
"""What a fork may use beside three times what its tests use without the mutant."""
MODULE_LEVEL_SECONDS = 30
"""What collecting and running all tests anew may take."""
WALL_SECONDS = 120
"""For a mutant that waits for ever without using the processor."""

PYTEST = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "--no-header", "-W", "ignore")
SURVIVED_CODE, KILLED_CODE, BROKEN_CODE = 0, 1, 3


@dataclass
class Reach:
    """What one test reaches without any mutant.

    :param lines: of the module that is mutated
    """

    seconds: float = 0.0
    lines: set[int] = field(default_factory=set)
    failed: bool = False


def run_mutants(
    mutants: Sequence[Mutant], tests: Sequence[str], report: Callable[[Mutant, str], None], *, module_level: bool = True
) -> None:
    """Run mutants of one module and report what became of each.

    :param tests: files or directories of tests, relative to the repository
    :param module_level: also those outside of functions, which take a few seconds each
    """
    path = str(ROOT / mutants[0].path)
    original = compile(Path(path).read_text(), path, "exec", dont_inherit=True)
    inside: list[tuple[Mutant, CodeType]] = []
    outside: list[tuple[Mutant, CodeType]] = []
    for mutant in mutants:
        code = compile(mutant.source, path, "exec", dont_inherit=True)
        (outside if _shell(code) != _shell(original) else inside).append((mutant, code))
    for mutant, result in _forked_session(original, inside, tests):
        report(mutant, result)
    for mutant, _code in outside if module_level else ():
        report(mutant, _run_anew(mutant, tests))


# code


def _parts(code: CodeType) -> Iterator[CodeType]:
    """The outermost functions of a module's code, also those of its classes."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & inspect.CO_NEWLOCALS:
                yield constant
            else:
                yield from _parts(constant)


def _shell(code: CodeType) -> tuple[Any, ...]:
    """A module's code without that of its functions."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if not isinstance(constant, CodeType):
            constants.append((type(constant), repr(constant)))
        elif not constant.co_flags & inspect.CO_NEWLOCALS:
            constants.append(_shell(constant))
    return code.co_code, code.co_names, tuple(constants)


def _replace_code(original: CodeType, mutated: CodeType, functions: Mapping[CodeType, Sequence[FunctionType]]) -> None:
    """Give the functions that differ their mutated code, wherever they are referred to."""
    for old, new in zip(_parts(original), _parts(mutated), strict=True):
        if old != new:
            for function in functions[old]:
                function.__code__ = new


def _functions_of(path: str) -> dict[CodeType, list[FunctionType]]:
    """The functions of a file that are in memory, by their code."""
    found: dict[CodeType, list[FunctionType]] = {}
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and thing.__code__.co_filename == path:
            found.setdefault(thing.__code__, []).append(thing)
    return found


def _forget_cached() -> None:
    """Empty the caches of the package: statements that were built before would be sent unmutated."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cellmove"):
            for thing in list(vars(module).values()):
                if isinstance(thing, functools._lru_cache_wrapper):
                    thing.cache_clear()


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other source."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self.name = ".".join(Path(path).relative_to(ROOT).with_suffix("").parts)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of that module only."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutated source; there is no compiled file of it."""
        exec(compile(self.source, self.path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102


# running


def _forked_session(
    original: CodeType, mutants: Sequence[tuple[Mutant, CodeType]], tests: Sequence[str]
) -> Iterator[tuple[Mutant, str]]:
    if not mutants:
        return
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        with os.fdopen(sending, "w", buffering=1) as pipe:
            runner = _Runner(original, mutants, lambda at, result: print(json.dumps([at, result]), file=pipe))
            code = _pytest_main([*tests], runner)
            if not runner.complete:
                print(json.dumps([-1, f"pytest ended with {code}: {runner.problem}"]), file=pipe)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        for line in pipe:
            at, result = json.loads(line)
            if at < 0:
                raise RuntimeError(result)
            yield mutants[at][0], result
    os.waitpid(child, 0)


def _pytest_main(tests: list[str], plugin: object | None = None) -> int:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    os.chdir(ROOT)
    return int(pytest.main([*PYTEST, *tests], plugins=[plugin] if plugin else []))


class _Runner:
    """The loop of tests, in the place of pytest's own."""

    def __init__(
        self, original: CodeType, mutants: Sequence[tuple[Mutant, CodeType]], send: Callable[[int, str], None]
    ) -> None:
        self.original, self.mutants, self.send = original, mutants, send
        self.complete, self.problem = False, "no test ran"
        self.reached: dict[str, Reach] = {}
        self.functions: dict[CodeType, list[FunctionType]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once, then for every mutant those that reach it."""
        if session.testsfailed:
            self.problem = "tests cannot be collected"
            return True
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            self.reached[item.nodeid] = self._trace(item, following)
        failed = [name for name, reach in self.reached.items() if reach.failed]
        if failed:
            self.problem = f"without any mutant these tests fail: {', '.join(failed)}"
            return True
        self.functions = _functions_of(self.original.co_filename)
        gc.collect()
        gc.freeze()  # a fork then copies fewer pages
        for at, (mutant, code) in enumerate(self.mutants):
            self.send(at, self._try(session.items, mutant, code))
        self.complete = True
        return True

    def _trace(self, item: pytest.Item, following: pytest.Item | None) -> Reach:
        reach, file = Reach(), self.original.co_filename

        def in_module(frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "line":
                reach.lines.add(frame.f_lineno)
            return in_module

        def anywhere(frame: FrameType, _event: str, _argument: Any) -> Any:
            if frame.f_code.co_filename != file:
                return None
            reach.lines.add(frame.f_lineno)
            return in_module

        _forget_cached()
        started = time.process_time()
        threading.settrace(anywhere)
        sys.settrace(anywhere)
        try:
            reports = runtestprotocol(item, log=False, nextitem=following)
        finally:
            sys.settrace(None)
            threading.settrace(None)
        reach.seconds = time.process_time() - started
        reach.failed = any(report.failed for report in reports)
        return reach

    def _try(self, items: Sequence[pytest.Item], mutant: Mutant, code: CodeType) -> str:
        wanted = set(range(mutant.line, mutant.end_line + 1))
        chosen = [item for item in items if wanted & self.reached[item.nodeid].lines]
        if not chosen:
            return NOT_REACHED
        chosen.sort(key=lambda item: self.reached[item.nodeid].seconds)
        seconds = sum(self.reached[item.nodeid].seconds for item in chosen)

        def run() -> int:
            _replace_code(self.original, code, self.functions)
            _forget_cached()
            for item in chosen:
                if any(report.failed for report in runtestprotocol(item, log=False, nextitem=None)):
                    return KILLED_CODE
            return SURVIVED_CODE

        return _in_fork(run, seconds)


def _run_anew(mutant: Mutant, tests: Sequence[str]) -> str:
    """A mutant at module level: the tests are collected anew, with the mutated module."""

    def run() -> int:
        sys.meta_path.insert(0, _Mutated(str(ROOT / mutant.path), mutant.source))
        code = _pytest_main(["-x", *tests])
        return SURVIVED_CODE if code == 0 else KILLED_CODE

    return _in_fork(run, MODULE_LEVEL_SECONDS)


def _in_fork(run: Callable[[], int], seconds: float) -> str:
    child = os.fork()
    if child == 0:
        code = BROKEN_CODE
        with contextlib.suppress(BaseException):
            limit = int(CPU_SECONDS + 3 * seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(WALL_SECONDS + 60 * seconds))
            code = run()
        os._exit(code)
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return TIMED_OUT if os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL) else KILLED
    return {SURVIVED_CODE: SURVIVED, KILLED_CODE: KILLED}.get(os.WEXITSTATUS(status), BROKEN)
