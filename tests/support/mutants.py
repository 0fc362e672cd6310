"""Mutants of one module: cosmic-ray's operators, and six more for SQL and the journal.

cosmic-ray changes operators, numbers and keywords. It never drops a part of a condition, a key or a statement, and
those are the mistakes that matter in a compare-and-swap: an update without its comparison, a delete without its guard.
The operators here make these.

Mutants have as many lines as the original, so that line numbers of a coverage run stay valid.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

COMPARISONS = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
ARITHMETIC = ("Add_Sub", "Sub_Add", "BitOr_BitAnd", "BitAnd_BitOr")
OPERATORS = (
    *(f"ReplaceComparisonOperator_{name}" for name in COMPARISONS),
    *(f"ReplaceBinaryOperator_{name}" for name in ARITHMETIC),
    "ReplaceUnaryOperator_Delete_Not",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
)
"""cosmic-ray's operators that are used. Left out: other pairs of one comparison, which are killed by the same tests;
ExceptionReplacer, which fails on a dotted name."""

CLAUSES = ("where", "and_", "or_", "rows", "change", "removal")
"""Calls whose positional arguments are conditions, or names of columns of a condition."""

OPTIONAL = ("columns", "expanding")
"""Keyword arguments without which a statement gives the same: more columns are read, or SQLAlchemy's default is used."""

JUMPS = ("return", "raise", "continue", "break")
SHORT = 20
"""Characters below which the line before is needed to know which of a function's jumps is meant."""

Offsets = tuple[int, int]
Edit = tuple[Offsets, str]


@dataclass(frozen=True)
class Mutant:
    """One changed module.

    :param line: first line of the statement that is changed
    :param end_line: last line of that statement; for a compound statement, of its header
    :param function: qualified name of the function; empty at module level
    """

    path: str
    line: int
    end_line: int
    function: str
    operator: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """What names this mutant in the list of tolerated ones: no line number, so that it survives other changes."""
        return f"{self.path} {self.function}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Place:
    """Where an operator can be applied.

    :param occurrence: for an operator of cosmic-ray: which of its positions in the module
    :param edit: for an operator of this module: the bytes to replace
    """

    operator: str
    line: int
    occurrence: int = 0
    edit: Edit | None = None


def places(source: str) -> list[Place]:
    """Everything that can be mutated in a module, in the order of its lines."""
    skipped = _skipped_lines(ast.parse(source))
    chosen = itertools.chain(_cosmic_ray(source), _own(source))
    return sorted((place for place in chosen if place.line not in skipped), key=lambda place: place.line)


def make(path: str, source: str, place: Place) -> Mutant | None:
    """The mutant of a place; None when it does not compile, or is the original."""
    if place.edit is None:
        operator = OperatorProvider()[place.operator]()
        mutated = mutate_code(source, operator, place.occurrence) or source
    else:
        (start, end), text = place.edit
        encoded = source.encode()
        mutated = (encoded[:start] + text.encode() + encoded[end:]).decode()
    mutated, before, after = _aligned(source, mutated)
    try:
        if _dump(mutated) == _dump(source):
            return None
        compile(mutated, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    line, end_line, function = statement_at(source, place.line)
    return Mutant(path, line, end_line, function, place.operator, before, after, mutated)


def _aligned(source: str, mutated: str) -> tuple[str, str, str]:
    """The mutated source with as many lines as the original; and the lines that differ, before and after."""
    old, new = source.split("\n"), mutated.split("\n")
    head = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    shortest = min(len(old), len(new)) - head
    pairs = zip(reversed(old), reversed(new), strict=False)
    tail = min(shortest, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    before, after = old[head : len(old) - tail], new[head : len(new) - tail]
    padding = [""] * (len(old) - len(new))
    aligned = [*new[:head], *after, *padding, *new[len(new) - tail :]]
    words = _words(before)
    if head and len(words) < SHORT and words.startswith(JUMPS):
        words = f"{_words(old[head - 1 : head])} ⏎ {words}"
    return "\n".join(aligned), words, _words(after)


@functools.lru_cache(maxsize=4)
def _dump(source: str) -> str:
    return ast.dump(ast.parse(source))


def _words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def _cosmic_ray(source: str) -> Iterator[Place]:
    provider, nodes = OperatorProvider(), list(ast_nodes(get_ast(source)))
    ignored = _ignored(ast.parse(source))
    for name in OPERATORS:
        operator, occurrence = provider[name](), 0
        for node in nodes:
            for (line, column), _end in operator.mutation_positions(node):
                if not any(start <= (line, column) < end for start, end in ignored):
                    yield Place(name, line, occurrence=occurrence)
                occurrence += 1


def _ignored(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types stand, which nothing evaluates; decorators; values of optional arguments."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.AnnAssign, ast.arg)):
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            found += node.decorator_list
        elif isinstance(node, ast.keyword) and node.arg in OPTIONAL:
            found.append(node.value)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in found
        if node is not None
    ]


def _skipped_lines(tree: ast.Module) -> set[int]:
    """Lines of imports for type checking, and of protocols."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        guard = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        protocol = isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
        )
        if guard or protocol or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@functools.lru_cache(maxsize=4)
def _spans(source: str) -> list[tuple[int, int, str]]:
    """First and last line of every statement (of compound ones: of the header) with the function that it belongs to."""
    found: list[tuple[int, int, str]] = []

    def visit(node: ast.AST, function: str, *, in_function: bool) -> None:
        for child in ast.iter_child_nodes(node):
            name, inside = function, in_function
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{function}.{child.name}".lstrip(".")
                inside = in_function or not isinstance(child, ast.ClassDef)
            if isinstance(child, ast.stmt):
                body = getattr(child, "body", None)
                end = body[0].lineno - 1 if body else child.end_lineno or child.lineno
                found.append((child.lineno, max(child.lineno, end), function if in_function else ""))
            visit(child, name, in_function=inside)

    visit(ast.parse(source), "", in_function=False)
    return found


def statement_at(source: str, line: int) -> tuple[int, int, str]:
    around = [span for span in _spans(source) if span[0] <= line <= span[1]]
    return min(around, key=lambda span: span[1] - span[0], default=(line, line, ""))


class _Own(ast.NodeVisitor):
    """Finds what the operators of this module can change."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.starts = [0, *itertools.accumulate(len(line) + 1 for line in self.source.split(b"\n"))]
        self.found: list[Place] = []
        self.raising = 0

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> Offsets:
        """The offsets of a node in the source, in bytes."""
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def add(self, operator: str, node: ast.expr | ast.stmt | ast.keyword, span: Offsets, text: str) -> None:
        """Record a place. Lines that go are kept as empty ones."""
        gone = self.source[span[0] : span[1]].count(b"\n") - text.count("\n")
        self.found.append(Place(operator, node.lineno, edit=(span, text + "\n" * gone)))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Statements of a function. Its decorators and annotations stay."""
        for statement in node.body:
            last = statement is node.body[-1]
            if not (last and isinstance(statement, ast.Return) and _is_none(statement.value)):
                self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Statements of a class. Its decorators stay."""
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value alone."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call whose result nobody uses is dropped."""
        if not isinstance(node.value, ast.Constant):
            self.add("RemoveStatement", node, self.span(node), "pass")
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """An assignment to an item or attribute is dropped. That of a name would end in a NameError."""
        if not isinstance(node.targets[0], (ast.Name, ast.Tuple)):
            self.add("RemoveStatement", node, self.span(node), "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Nothing is added."""
        self.add("RemoveStatement", node, self.span(node), "pass")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Each exception is not caught. It is replaced by one that nothing raises."""
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
        for exception in caught:
            self.add("ReplaceException", exception, self.span(exception), "NotImplementedError")
        for statement in node.body:
            self.visit(statement)

    def visit_Delete(self, node: ast.Delete) -> None:
        """Nothing is deleted."""
        self.add("RemoveStatement", node, self.span(node), "pass")

    def visit_Return(self, node: ast.Return) -> None:
        """An early return is dropped; at the end of a function this returns None."""
        self.add("RemoveStatement", node, self.span(node), "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """A refusal is dropped. Of its words only ``kind`` decides anything."""
        self.add("RemoveStatement", node, self.span(node), "pass")
        self.raising += 1
        self.generic_visit(node)
        self.raising -= 1

    def visit_Dict(self, node: ast.Dict) -> None:
        """One item less."""
        spans = []
        for key, value in zip(node.keys, node.values, strict=True):
            start, end = self.span(value)
            spans.append((self.span(key)[0] if key else self.source.rindex(b"**", 0, start), end))
        for position, value in enumerate(node.values):
            self.without("RemoveItem", node.keys[position] or value, spans, position, (self.span(node), "{}"))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """``in`` against ``not in``, and one of the listed values less."""
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if isinstance(operator, (ast.In, ast.NotIn)):
                between = (self.span(left)[1], self.span(right)[0])
                text = self.source[slice(*between)].decode()
                swapped = (
                    text.replace("not in", "in") if isinstance(operator, ast.NotIn) else text.replace("in", "not in")
                )
                self.add("SwapIn", left, between, swapped)
                if isinstance(right, (ast.Tuple, ast.Set, ast.List)) and len(right.elts) > 1:
                    spans = [self.span(element) for element in right.elts]
                    for position, element in enumerate(right.elts):
                        self.without("RemoveItem", element, spans, position, (self.span(right), "()"))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """One operand less."""
        for position, operand in enumerate(node.values):
            start, end = self.span(operand)
            if position:
                start = self.span(node.values[position - 1])[1]
            else:
                end = self.span(node.values[1])[0]
            text = self.source[start:end]
            if text.count(b"(") == text.count(b")"):
                self.add("RemoveOperand", operand, (start, end), "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """One keyword argument less; of conditions, one positional argument less."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        arguments: list[ast.expr | ast.keyword] = sorted(
            [*node.args, *node.keywords], key=lambda argument: (argument.lineno, argument.col_offset)
        )
        spans = [self.span(argument) for argument in arguments]
        for position, argument in enumerate(arguments):
            if isinstance(argument, ast.keyword) and argument.arg in OPTIONAL:
                continue
            named = isinstance(argument, ast.keyword)
            first_is_table = name in ("rows", "change", "removal") and position == 0
            if (named or (name in CLAUSES and not first_is_table)) and (
                not self.raising or (named and getattr(argument, "arg", "") == "kind")
            ):
                inside = self.span(node.func)[1], self.span(node)[1]
                self.without("RemoveArgument", argument, spans, position, (inside, "()"))
        self.generic_visit(node)

    def without(
        self, operator: str, node: ast.expr | ast.keyword, spans: list[Offsets], position: int, only: Edit
    ) -> None:
        """Record the removal of one of several things between commas.

        :param only: what to do when it is the only one
        """
        if len(spans) == 1:
            self.add(operator, node, *only)
        elif position + 1 < len(spans):
            self.add(operator, node, (spans[position][0], spans[position + 1][0]), "")
        else:
            self.add(operator, node, (spans[position - 1][1], spans[position][1]), "")


def _is_none(value: ast.expr | None) -> bool:
    """Also ``NOTHING``: for the executor an action without a result has an empty one."""
    if isinstance(value, ast.Name):
        return value.id == "NOTHING"
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _own(source: str) -> list[Place]:
    finder = _Own(source)
    finder.visit(ast.parse(source))
    return finder.found
