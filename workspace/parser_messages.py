"""The parser's error messages, in plain words on one line."""

import difflib
import re
from collections.abc import Sequence

_IN_PLAIN_WORDS = {
    r"^argument (--\w+): ": r"\1: ",
    r"^(--\w+): (\S+) should be ": r"\1 \2: should be ",
    r"(\S+) not among choices \((.*)\)": r"invalid choice: \1 (choose from \2)",
    r"Expected a typing\.Literal\[(.*?)\]": r"invalid choice (choose from \1)",
    r"expected (\d+) arguments": r"expected \1 values",
    r"expected (one|at least one) argument": r"expected \1 value",
    r"expected int, got |invalid literal for int\(\) with base 10: ": "expected a whole number, got ",
    r"expected float, got |could not convert string to float: ": "expected a number, got ",
    r"expected bool, got ": "expected true or false, got ",
    r"expected str, got ": "expected text (in YAML, quote it), got ",
    r"int\(\) argument must be a string, .*? not 'NoneType'$": "expected a whole number, got null",
}
_REQUIRED = "the following arguments are required: "


def one_line(message: str, flags: Sequence[str]) -> str:
    """Return jsonargparse's message on one line, without the names of its types, and with the nearest known flag.

    Args:
        message: as jsonargparse or argparse words it.
        flags: the flags that the command has.
    """
    line = _plain(message)
    if line.startswith(_REQUIRED):
        names = line.removeprefix(_REQUIRED).split(", ")
        line = _REQUIRED + ", ".join(f"--{name}" if f"--{name}" in flags else name for name in names)
    for word in re.findall(r"--[\w-]+", line):
        near = difflib.get_close_matches(word, list(flags), n=1)
        if word not in flags and near:
            return f"{line} (did you mean {near[0]}?)"
    return line


def _plain(message: str) -> str:
    line = re.sub(r"\s+", " ", message.replace("Parser key ", "--").replace('--"', '"--')).strip()
    line = re.sub(
        r'"(--[\w-]+)": Does not validate against any of .*? Errors: - (?:Not of type \w+: )?(.*?) - Expected a '
        r".*? Given value: (.*)",
        r"\1 \3: \2",
        line,
    )
    line = re.sub(r'"(--[\w-]+)"( element \d+)?: (?:Not of type \w+: )?', r"\1\2: ", line)
    line = re.sub(r"does not conform to restriction (v\S+(?: and v\S+)*)", _limits, line)
    line = re.sub(r"[Ee]xpected a <class '([\w.]+)'>\. Got value: ", r"expected \1, got ", line)
    for pattern, words in _IN_PLAIN_WORDS.items():
        line = re.sub(pattern, words, line)
    return line


def bounds_in_words(bounds: Sequence[tuple[str, object]]) -> str:
    """Return the bounds of a number in words.

    >>> bounds_in_words([(">=", 0), ("<", "inf")])
    'at least 0 and finite'
    """
    words = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most"}
    told = " and ".join(f"{words[sign]} {limit}" for sign, limit in bounds)
    return told.replace("less than inf", "finite").replace("less than 9223372036854775808", "below 2^63")


def _limits(found: re.Match[str]) -> str:
    """Return the bounds in words: ``v>=0 and v<inf`` becomes ``should be at least 0 and finite``."""
    limits = [re.fullmatch(r"v(\W+)(.*)", part) for part in found[1].split(" and ")]
    return f"should be {bounds_in_words([(limit[1], limit[2]) for limit in limits if limit])}"
