"""What is asked for: checks of a value, overrides to paste, counts in words, and whether this machine has the memory.
Each check raises ValueError with one line."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any


def require(key: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{key}={value!r}: it must be {allowed}")


def check_arguments(group: str, given: Mapping[str, Any], takes: Sequence[Parameter], whose: str) -> None:
    """Refuse a key of a group that is no argument of what it is given to, and a word in place of yes or no: the word
    `no` is as true as any other."""
    defaults = {argument.name: argument.default for argument in takes}
    for key, value in given.items():
        if key not in defaults:
            raise ValueError(f"{group}.{key}: {whose} has no such key; it has {', '.join(defaults) or 'none'}")
        if isinstance(defaults[key], bool):
            require(f"{group}.{key}", value, isinstance(value, bool), "true or false")


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by dotted key, its groups among them."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{key}.")
    return found


def leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `dotted`, without the groups."""
    return {key: value for key, value in dotted(config).items() if not isinstance(value, Mapping)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], but: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """The keys whose values differ, but those, each with a text that says so."""
    before, after = leaves(old), leaves(new)
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was != now and key not in but:
            yield key, f"{key} was {was}, now {now}"


def override(key: str, value: str | Sequence[str]) -> str:
    """`key=value` as it can be pasted into a shell, with Hydra's quotes and the shell's where they are needed."""
    values = quoted(value) if isinstance(value, str) else f"[{','.join(map(quoted, value))}]"
    return shlex.quote(f"{key}={values}")


def longer(typed: Mapping[str, Sequence[str]], key: str, values: Sequence[str]) -> str:
    """A list of a table's config with more in it, as `override`: pasted, it takes back nothing of what was typed."""
    return override(f"data.{key}", [*typed.get(key, ()), *values])


def taken(typed: Mapping[str, Sequence[str]], key: str, columns: Sequence[str]) -> str:
    """What gives columns to data.drop, or the first to a key of its own, and takes them from the lists they are in."""
    if key == "drop":
        ways = [longer(typed, key, columns)]
    else:
        columns = columns[:1]
        ways = [override(f"data.{key}", columns[0])]
    for other in ("drop", "categorical"):
        names = typed.get(other, ())
        if other != key and {*names} & {*columns}:
            ways.append(override(f"data.{other}", [name for name in names if name not in columns]))
    return " ".join(ways)


def quoted(text: str) -> str:
    """Text as Hydra reads it as text: in quotes where it would be something else without."""
    from hydra.core.override_parser.types import Quote, QuotedString  # here: the report does without it

    plain = re.fullmatch(r"(?!(true|false|null|nan|inf)$)[a-z_]\w*", text, re.ASCII | re.IGNORECASE)
    return text if plain else QuotedString(text, Quote.double).with_quotes()


def count(number: int, noun: str) -> str:
    """'1 seed', '2 seeds'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def first_line(error: BaseException) -> str:
    """An error's first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def memory() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(size: int, what: str) -> None:
    """Refuse what takes so many bytes where this machine has less, and say how much would fit."""
    if size > (here := memory()):
        takes = f"{what} takes {size / 2**30:.1f} GiB and this machine has {here / 2**30:.1f} GiB"
        raise ValueError(f"{takes}: at most {100 * here / size:.0f} % of its rows would fit")
