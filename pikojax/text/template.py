"""Jinja templates from strangers, rendered within bounds: no name leads out of the sandbox, no operation is free.

    {% for i in range(10**9) %}x{% endfor %}   →  refused: a range of more than 100,000
    {% set ns.x = ns.x ~ ns.x %} in a loop     →  refused: more work than the messages can need

What bounds what. A template is at most 64 kB and its names times its branches are bounded, so that compiling it takes two seconds at the very most;
nothing is computed meanwhile.
It becomes Python code in which every operator, concatenation, slice, literal, comparison, call, filter, loop step and piece of
output goes through `sandbox.py`, which charges for it. The syntax tree is rewritten to that end before code is made of it (`_Meters`),
as jinja2 itself lets only operators, calls and output be intercepted.

Leaves out: include, import, extends, block, autoescape (a chat template is one file), `do`.
Needs jinja2; import it through `chat.py`, which says so.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.defaults import DEFAULT_TESTS
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pikojax.text import marked
from pikojax.text.sandbox import FILTERS, FUNCTIONS, LIMIT_INT, METER, WORK, Meter, TooMuch, call_object, charge, checked, operate, printed, size

LIMIT_TEMPLATE = 64_000  # characters; the longest published chat templates have less than half of it
LIMIT_BRANCHES = 400_000  # names × branches: what compiling takes grows with it
# ---------------------------------------------------------------- what stands for jinja2's syntax

# filters that stand in the rewritten tree; a template that named one would only be charged
_CONCAT, _STEPS, _SIZED, _SLICE, _SEEN, _KEY = (f"\0{name}" for name in ("concat", "steps", "sized", "slice", "seen", "key"))


def _steps(context, iterable: Iterable) -> Iterator:
    for item in iterable:
        charge(0)
        yield item


def _slice(context, value, start, stop, step):
    taken = value[start:stop:step]
    charge(len(taken))
    return taken


def _seen(context, value):
    charge(size(value) // 16)
    return value


def _key(context, value):
    if not isinstance(value, (str, int, float, type(None))):
        raise SecurityError(f"a {type(value).__name__} as a key is not allowed")
    return value


_PRIVATE = {
    _CONCAT: lambda context, values: checked(marked.concat([printed(value) for value in values])),
    _STEPS: _steps,
    _SIZED: lambda context, value: checked(value),
    _SLICE: _slice,
    _SEEN: _seen,
    _KEY: _key,
}


class _Meters(NodeTransformer):
    """Puts the private filters around whatever generated code would do without asking."""

    def _wrap(self, node, name, *args):
        return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)

    def visit_TemplateData(self, node):
        return nodes.Const(node.data, lineno=node.lineno)  # then it is output like any value, and charged

    def visit_Const(self, node):
        if isinstance(node.value, int) and abs(node.value) > LIMIT_INT:
            raise TooMuch("it has a whole number of more than 63 bits")
        return node

    def visit_Concat(self, node):
        node = self.generic_visit(node)
        return self._wrap(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_For(self, node):
        node = self.generic_visit(node)
        node.iter = self._wrap(node.iter, _STEPS)
        return node

    def visit_List(self, node):
        return self._wrap(self.generic_visit(node), _SIZED)

    def visit_Tuple(self, node):
        node = self.generic_visit(node)
        return self._wrap(node, _SIZED) if node.ctx == "load" else node

    def visit_Dict(self, node):
        for pair in node.items:
            pair.key = self._wrap(pair.key, _KEY)
        return self._wrap(self.generic_visit(node), _SIZED)

    def visit_Getitem(self, node):
        node = self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = [end or nodes.Const(None, lineno=node.lineno) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._wrap(node.node, _SLICE, *ends)

    def visit_Compare(self, node):
        node = self.generic_visit(node)
        node.expr = self._wrap(node.expr, _SEEN)
        for operand in node.ops:
            operand.expr = self._wrap(operand.expr, _SEEN)
        return node

    def visit_Test(self, node):
        node = self.generic_visit(node)
        node.node, node.args = self._wrap(node.node, _SEEN), [self._wrap(arg, _SEEN) for arg in node.args]
        return node

    def _refuse(self, node):
        name = type(node).__name__.lower().replace("scopedevalcontextmodifier", "autoescape")
        raise TooMuch(f"line {node.lineno}: {name} has no place in a chat template")

    visit_Extends = visit_Include = visit_Import = visit_FromImport = visit_Block = _refuse
    visit_ScopedEvalContextModifier = _refuse


class _Generation(Extension):
    """{% generation %} … {% endgeneration %} marks what an assistant wrote, for trainers; here its content simply stands."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # computes nothing while compiling
            finalize=pass_context(lambda context, value: printed(value)),
            extensions=[_Generation, LoopControls],
            cache_size=0,
        )
        self.globals = dict(FUNCTIONS)
        self.filters = FILTERS | {name: pass_context(function) for name, function in _PRIVATE.items()}
        on_text = {name: lambda value, name=name: isinstance(value, str) and getattr(value, f"is{name}")() for name in ("lower", "upper")}
        self.tests = DEFAULT_TESTS | on_text

    @staticmethod
    def concat(parts: Iterable[str]) -> str:  # of a macro, a set block, a filter block
        return checked(marked.concat(parts))

    def _generate(self, source, *args, **kwargs):
        names = {name.name for name in source.find_all(nodes.Name)}
        branches = sum(1 for _ in source.find_all((nodes.If, nodes.For, nodes.Macro, nodes.With, nodes.CallBlock, nodes.FilterBlock, nodes.CondExpr)))
        if len(names) * branches > LIMIT_BRANCHES:
            raise TooMuch(f"it has {len(names):,} names and {branches:,} branches")
        return super()._generate(_Meters().visit(source), *args, **kwargs)

    def call_binop(self, context, operator, left, right):
        return operate(operator, left, right)

    def getitem(self, obj, argument):
        if not isinstance(argument, (str, int, float, type(None), Undefined)):
            raise SecurityError(f"a {type(argument).__name__} as an index is not allowed")
        return super().getitem(obj, argument)

    def call(__self, __context, __obj, *args, **kwargs):  # named so that no keyword of the template's can collide
        charge(64)
        if isinstance(__obj, LoopContext):
            args = (_steps(__context, args[0]),)
        if isinstance(__obj, (Macro, LoopContext)):
            return super().call(__context, __obj, *args, **kwargs)
        return call_object(__obj, args, kwargs)


@lru_cache(maxsize=32)
def compiled(source: str):
    if len(source) > LIMIT_TEMPLATE:
        raise TooMuch(f"it has {len(source):,} characters, over {LIMIT_TEMPLATE:,}")
    return _Bounded().from_string(source)


def rendered(source: str, variables: dict[str, Any], max_chars: int, seconds: float) -> str:
    """The text of the template; `Marked` where `variables` hold marked strings. Raises whatever the template provokes."""
    meter = Meter(WORK + 100 * size(variables), seconds)
    token = METER.set(meter)
    try:
        template = compiled(source)
        meter.restart()  # compiling does not count
        parts, n_chars = [], 0
        for part in template.root_render_func(template.new_context(variables)):
            parts.append(part)
            n_chars += len(part)
            if n_chars > max_chars:
                raise TooMuch(f"its text is over {max_chars:,} characters")
        return marked.concat(parts)
    finally:
        METER.reset(token)


def line_of(source: str, error: Exception) -> int | None:
    """The line of the template in which an error came up."""
    if getattr(error, "lineno", None):
        return error.lineno
    line, step = None, error.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = compiled(source).get_corresponding_lineno(step.tb_lineno)
        step = step.tb_next
    return line
