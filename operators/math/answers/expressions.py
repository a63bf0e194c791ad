"""Reads one mathematical expression, in LaTeX or as typed, into a tree. Nothing is evaluated here.

The grammar contains only notation with a single meaning. Unknown notation is unreadable, and so is notation that people read
in different ways (1/2x, 5(6), 2^10 in LaTeX, f(x), sin x/2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MOST_DEPTH = 40
_MOST_DIGITS = 1000


class UnreadableError(Exception):
    """A text is not an expression, or has several readings."""


@dataclass(frozen=True)
class Node:
    """An expression.

    Args:
        head: `number` (with value), `variable` and `constant` (with name), `call` (a function, with name), or an operation.
        name: the name of a constant: pi, e, i or infinity.
    """

    head: str
    parts: tuple[Node, ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp"}
)
TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_CONSTANTS = {"e": "e", "i": "i"}
_GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "theta", "lambda", "mu", "nu", "rho", "sigma", "tau", "phi"}
    | {"varphi", "psi", "omega", "xi", "eta", "zeta", "kappa", "chi", "Delta", "Gamma", "Omega", "Phi", "Psi", "Sigma", "Theta"}
)
_TIMES = ("times", "cdot", "ast")
_NOT_FACTORS = frozenset(
    {"is", "in", "or", "to", "of", "no", "if", "by", "at", "on", "as", "an", "it", "so", "we", "be", "do", "he", "me", "my"}
    | {"up", "us", "go", "am", "ok", "vs", "cm", "mm", "km", "kg", "mg", "ft", "st", "nd", "rd", "th", "pm", "mi", "lb", "oz"}
)
"""Pairs of letters that are a word or a unit, not a product."""
_PRODUCTS = ("xyz", "abc", "pqr", "rst", "uvw", "klm")
_APPLIED = frozenset("fghFGHPQ")
"""Letters that are functions, not factors, before a bracket."""
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_LETTERS = re.compile(r"[A-Za-z]+")
_SUBSCRIPT = re.compile(r"_ ?(?:([A-Za-z0-9])(?![A-Za-z0-9])|\{ ?([A-Za-z0-9]{1,20}) ?\})")
_COMMAND = re.compile(r"\\([A-Za-z]+|[^A-Za-z])")
_MIXED = re.compile(r"\\frac ?(?:\{ ?\d+ ?\}|\d) ?(?:\{ ?\d+ ?\}|\d)")


def parse(text: str) -> Node:
    """The tree of a normalised text.

    Raises:
        UnreadableError: it is not an expression, has several readings, or is nested more than 40 levels deep.
    """
    reader = _Reader(text)
    node = reader.sum()
    if reader.peek():
        raise reader.unreadable()
    return node


def variables(node: Node) -> frozenset[str]:
    """The names of the variables in an expression."""
    return frozenset({part.name for part in walk(node) if part.head == "variable"})


def walk(node: Node) -> list[Node]:
    """The nodes of an expression, the root first."""
    found, left = [], [node]
    while left:
        found.append(left.pop())
        left += found[-1].parts
    return found


class _Reader:
    """Recursive descent over the characters of one text; every character is read a bounded number of times."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0

    def unreadable(self) -> UnreadableError:
        return UnreadableError(f"character {self.place + 1}: {self.text[self.place : self.place + 20]!r}")

    def blanks(self) -> None:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def peek(self) -> str:
        """The next token: a character, or a command with its backslash; "" at the end."""
        self.blanks()
        found = _COMMAND.match(self.text, self.place)
        return found[0] if found else self.text[self.place : self.place + 1]

    def take(self, ahead: str) -> None:
        if self.peek() != ahead:
            raise self.unreadable()
        self.place += len(ahead)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise self.unreadable()

    def sum(self) -> Node:
        self.deeper()
        parts = []
        sign = self.sign()
        while True:
            part = self.product()
            parts.append(Node("negative", (part,)) if sign else part)
            ahead = self.peek()
            if ahead not in ("+", "-"):
                break
            self.place += 1
            sign = ahead == "-"
            if self.peek() in ("+", "-"):
                raise self.unreadable()
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Node("sum", tuple(parts))

    def sign(self) -> bool:
        """Whether a minus sign is here, possibly with a plus sign."""
        ahead = self.peek()
        if ahead not in ("+", "-"):
            return False
        self.place += 1
        if self.peek() in ("+", "-"):
            raise self.unreadable()
        return ahead == "-"

    def product(self) -> Node:
        factors = [self.power()]
        divisions = 0
        divided = False
        while True:
            ahead = self.peek()
            if ahead in ("*", "/", "\\div") or (ahead[:1] == "\\" and ahead[1:] in _TIMES) or self.letter_times(factors[-1]):
                divides = ahead in ("/", "\\div")
                divisions += divides
                if (divided and divides) or divisions > MOST_DEPTH:
                    raise self.unreadable()  # 1/2/3
                self.place += len(ahead)
                negative = self.sign()
                right = self.power()
                right = Node("negative", (right,)) if negative else right
                factors = [Node("quotient", (_product(factors), right))] if divides else [*factors, right]
                divided = divides
            elif self.starts(ahead):
                if divided or ahead.isdigit() or ahead == ".":
                    raise self.unreadable()  # 1/2x, 5 6, x2
                if ahead == "\\frac" and self.digit_before() and _MIXED.match(self.text, self.place):
                    raise self.unreadable()  # 3\frac{1}{2} may be a mixed number
                if ahead == "(" and (factors[-1].head == "number" or self.digit_before()) and self.only_number_inside():
                    raise self.unreadable()
                factors.append(self.power())
            else:
                return _product(factors)

    def letter_times(self, left: Node) -> bool:
        """Whether an x here is a times sign, as in 6 x 10."""
        return left.head == "number" and left.value != 0 and bool(re.compile(r"x ?\d").match(self.text, self.place))

    def digit_before(self) -> bool:
        return self.text[max(0, self.place - 3) : self.place].rstrip()[-1:].isdigit()

    def only_number_inside(self) -> bool:
        return bool(re.compile(r"\( ?[\d.]+ ?\)").match(self.text, self.place))

    def starts(self, ahead: str) -> bool:
        """Whether a factor begins with a token."""
        if ahead[:1] == "\\":
            name = ahead[1:]
            known = name in _GREEK or name in FUNCTIONS or name in ("frac", "sqrt", "pi", "infty", "binom", "lvert", "lfloor")
            return known or name == "lceil"
        return ahead.isalnum() or ahead in ("(", "{", ".")

    def power(self) -> Node:
        node = self.postfix(self.primary())
        ahead = self.peek()
        if ahead == "^" or self.text.startswith("**", self.place):
            typed = ahead == "*"
            self.place += 2 if typed else 1
            node = Node("power", (node, self.exponent(typed)))
            if self.peek() == "^" or self.text.startswith("**", self.place):
                raise self.unreadable()
            node = self.postfix(node)
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.text.startswith("^{\\circ}", self.place):
                if node.head in ("degree", "factorial"):
                    raise self.unreadable()
                self.place += len("^{\\circ}")
                node = Node("degree", (node,))
            elif self.peek() == "!":
                self.place += 1
                if node.head in ("degree", "factorial"):
                    raise self.unreadable()  # a double factorial
                node = Node("factorial", (node,))
            elif self.peek() in ("'", "_", "%"):
                raise self.unreadable()
            else:
                return node

    def exponent(self, typed: bool) -> Node:
        ahead = self.peek()
        if ahead in ("{", "("):
            return self.primary()
        negative = self.sign()
        ahead = self.peek()
        if ahead.isdigit():
            node = self.number() if typed else self.digit()
        elif ahead == "\\frac" or (ahead[:1] == "\\" and ahead[1:] in _GREEK | {"pi"}):
            node = self.argument()
        elif ahead.isalpha():
            self.place += 1
            node = letter(ahead)
        else:
            raise self.unreadable()
        return Node("negative", (node,)) if negative else node

    def digit(self) -> Node:
        """A single digit: 2^10 is meant as 1024, but in LaTeX it is 2 to the 1, times 0."""
        if re.compile(r"\d[\d.]").match(self.text, self.place):
            raise self.unreadable()
        self.place += 1
        return Node("number", value=Fraction(self.text[self.place - 1]))

    def number(self) -> Node:
        found = _NUMBER.match(self.text, self.place)
        if not found or len(found[0]) > _MOST_DIGITS or re.match(r"0\d", found[0]):
            raise self.unreadable()
        self.place = found.end()
        if re.compile(r"[.,]\d|[eE][+-]?\d|[kKMB](?![A-Za-z])|\.\.").match(self.text, self.place):
            raise self.unreadable()
        return Node("number", value=Fraction(found[0].replace(",", "")))

    def primary(self) -> Node:
        ahead = self.peek()
        if ahead.isdigit() or ahead == ".":
            return self.number()
        if ahead in ("(", "{"):
            return self.bracketed(ahead, {"(": ")", "{": "}"}[ahead])
        if ahead in ("|", "\\lvert"):
            return Node("abs", (self.bracketed(ahead, {"|": "|", "\\lvert": "\\rvert"}[ahead]),))
        if ahead[:1] == "\\" and len(ahead) > 1:
            return self.command(ahead)
        if ahead.isascii() and ahead.isalpha():
            return self.word()
        raise self.unreadable()

    def bracketed(self, opening: str, closing: str) -> Node:
        self.take(opening)
        node = self.sum()
        self.take(closing)
        return node

    def word(self) -> Node:
        letters = _LETTERS.match(self.text, self.place)
        assert letters is not None
        word = letters[0]
        if word in FUNCTIONS or word in ("sqrt", "pi"):
            return self.command(word)
        known = any(set(word) <= set(each) and len(set(word)) == len(word) for each in _PRODUCTS)
        if (len(word) > 2 and not known) or word.lower() in _NOT_FACTORS:
            raise self.unreadable()
        self.place += 1
        return self.variable(word[0])

    def variable(self, name: str) -> Node:
        """A letter with its primes and subscript."""
        bare = name
        while self.text.startswith("'", self.place):
            name += "'"
            self.place += 1
        if found := _SUBSCRIPT.match(self.text, self.place):
            name += "_" + (found[1] or found[2])
            self.place = found.end()
        if bare in _APPLIED and self.peek() == "(":
            raise self.unreadable()
        return letter(name)

    def command(self, ahead: str) -> Node:
        name = ahead.removeprefix("\\")
        self.place += len(ahead)
        if name == "pi":
            return Node("constant", name="pi")
        if name == "infty":
            return Node("constant", name="infinity")
        if name in _GREEK:
            return self.variable(ahead)
        if name in ("frac", "binom"):
            parts = (self.argument(), self.argument())
            return Node("quotient" if name == "frac" else "binomial", parts)
        if name == "sqrt":
            return self.root()
        if name in ("lfloor", "lceil"):
            self.place -= len(ahead)
            return Node(name[1:], (self.bracketed(ahead, "\\r" + name[1:]),))
        if name in FUNCTIONS:
            return self.call(name)
        self.place -= len(ahead)
        raise self.unreadable()

    def argument(self) -> Node:
        """The argument of a command: a group, one digit, one letter or one command."""
        ahead = self.peek()
        if ahead == "{":
            return self.bracketed("{", "}")
        if ahead.isdigit():
            self.place += 1
            return Node("number", value=Fraction(ahead))
        if ahead.isascii() and ahead.isalpha():
            self.place += 1
            return letter(ahead)
        if ahead[:1] == "\\" and ahead[1:] in _GREEK | {"pi", "sqrt", "frac"}:
            self.deeper()
            node = self.command(ahead)
            self.depth -= 1
            return node
        raise self.unreadable()

    def root(self) -> Node:
        index = Node("number", value=Fraction(2))
        if self.peek() == "[":
            index = self.bracketed("[", "]")
        ahead = self.peek()
        if ahead == "(":
            return Node("root", (self.bracketed("(", ")"), index))
        if ahead.isdigit():
            # \sqrt12 is meant as the root of 12, but in LaTeX it is the root of 1, times 2; √12 is the root of 12.
            if self.text[self.place - 1] == "t" and re.compile(r"\d\d").match(self.text, self.place):
                raise self.unreadable()
            return Node("root", (self.number(), index))
        return Node("root", (self.argument(), index))

    def call(self, name: str) -> Node:
        base: Node | None = None
        exponent: Node | None = None
        inverse = False
        if name == "log" and self.peek() == "_":
            self.place += 1
            base = self.argument()
        if self.peek() == "^" and not self.text.startswith("^{\\circ}", self.place):
            self.place += 1
            if found := re.compile(r"\{ ?-1 ?\}").match(self.text, self.place):
                self.place, inverse = found.end(), True
            else:
                exponent = self.exponent(False)
            if inverse and name not in _INVERSES:
                raise self.unreadable()
        inside = self.applied()
        node = Node("call", (inside,) if base is None else (inside, base), name=_INVERSES[name] if inverse else name)
        return node if exponent is None else Node("power", (node, exponent))

    def applied(self) -> Node:
        """The argument of a function: in brackets, or the factors up to the next sign or function."""
        ahead = self.peek()
        if ahead in ("(", "{", "|"):
            bracketed = self.primary()
            if self.peek() in ("^", "!"):
                raise self.unreadable()  # sin(x)^2
            return bracketed
        self.deeper()
        negative = self.sign()
        node = self.power()
        while self.starts(ahead := self.peek()) and ahead.removeprefix("\\") not in FUNCTIONS:
            letters = _LETTERS.match(self.text, self.place)
            if ahead == "(" or ahead.isdigit() or (letters and letters[0] in FUNCTIONS):
                raise self.unreadable()
            node = Node("product", (node, self.power()))
        if self.peek() in ("/", "*", "\\cdot", "\\times", "\\div"):
            raise self.unreadable()  # sin x/2
        self.depth -= 1
        return Node("negative", (node,)) if negative else node


def letter(name: str) -> Node:
    """A variable, or the constant that its letter stands for."""
    return Node("constant", name=_CONSTANTS[name]) if name in _CONSTANTS else Node("variable", name=name)


def _product(factors: list[Node]) -> Node:
    return factors[0] if len(factors) == 1 else Node("product", tuple(factors))
