"""What planning has to ask of the data and the networks. It takes seconds to import, so plan.json keeps the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from normdrop.arrangement import has
from normdrop.asked import count
from normdrop.data import SERVED
from normdrop.data.module import ReplicateData
from normdrop.data.rows import remarks, sentence
from normdrop.data.sources import arguments, source_of, standard_rows
from normdrop.networks import has_bn, shown
from normdrop.study.told import unknown_key
from normdrop.training.check import check_fit, reason_for
from normdrop.training.fit import quiet


def check_keys(data: Mapping[str, Any]) -> None:
    """Raise ValueError for a key of a data config that its source does not take."""
    known = ["name", "level", "source", *SERVED, *arguments(source_of(str(data["source"])))]
    for key in data:
        if key not in known:
            raise ValueError(unknown_key(f"data.{key}", [f"data.{name}" for name in known]))


def fingerprint_of(data: Mapping[str, Any]) -> str:
    """The fingerprint of a data config's rows. Raises ValueError as `check_keys`."""
    check_keys(data)
    return standard_rows(data).fingerprint


def one_engine(asked: Iterable[Mapping[str, Any]]) -> str:
    """What takes the steps of configurations that leave it open: the compiled engine where it says that it can take all
    of them, so that no comparison has two.
    """
    decisive = ("model", "optimizer", "noise", "arrangement", "position", "trainer")
    distinct = {json.dumps([config[key] for key in decisive], default=repr): config for config in asked}
    return "torch" if any(map(reason_for, distinct.values())) else "compiled"


def _digest(data: ReplicateData) -> str:
    """What the parts hold, in their order."""
    digest = hashlib.sha256()
    for part in data.parts.values():
        for tensor in (part.table.x, part.table.y, part.rows):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_effect(keys: Iterable[str], first: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse a swept key in which two data configs differ whose parts hold the same."""
    for key in keys:
        if first[key] != data[key]:
            same = f"each part has the rows that {first[key]} gives"
            raise ValueError(f"data.{key}={data[key]}: has no effect on {data['name']}: {same}")


def _absent(data: ReplicateData, classes: Sequence[str], seed: int) -> list[str]:
    """A line if parts have no row of some class: given ones, the latest rows, and what is left beside large groups."""
    found = []
    for key, part in {"test": "test", "val": "validation"}.items():
        absent = sorted({*range(len(classes))} - {*data.parts[key].y.flatten().tolist()})
        if absent:
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            found.append(f"class {classes[absent[0]]!r}{more} has no row in the {part} part")
    return [f"{'; '.join(found)} (seed {seed})"] if found else []


def facts_of(config: Mapping[str, Any], data: ReplicateData, seed: int) -> dict[str, Any]:
    """What the rows of a data config are, and how many of them each part of this seed has, with notes on that."""
    sizes = {part: own.rows.shape[1] for part, own in data.parts.items()}
    facts = standard_rows(config).facts() | {"parts": sizes}
    left = facts["rows"] - sum(sizes.values())
    if left and config["train_size"] is config["train_most"] is None:
        note = f"{count(left, 'row')} in no part, so that rows of one group, or copies of a row, stay together"
        facts["notes"] = [note, *facts["notes"]]
    # Behind what could make a result false.
    facts["notes"] = [*facts["notes"][:1], *_absent(data, list(facts["classes"]), seed), *facts["notes"][1:]]
    return facts


def check_fits(asked: Sequence[tuple[Mapping[str, Any], int]], varying: Iterable[str] = ()) -> list[str]:
    """Set up each distinct data config once, with one seed, and say what it holds. Raises ValueError.

    asked: configs, each with a seed that is to be trained. varying: the keys of the grid.
    """
    quiet()
    seen: set[str] = set()
    swept = [key for key in SERVED if f"data.{key}" in varying]
    served: dict[str, Mapping[str, Any]] = {}
    lines: dict[str, None] = {}
    shapes: dict[str, Any] = {}
    for config, seed in asked:
        parts = [config[key] for key in ("data", "batch_size", "trainer", "model", "noise", "optimizer", "engine")]
        fit = json.dumps([*parts, has_bn(config)], sort_keys=True)
        if fit in seen:
            continue
        seen.add(fit)
        name = config["data"]["name"]
        data = check_fit(config, seed)
        if swept:  # to read all rows takes time
            first = served.setdefault(json.dumps([name, *parts[1:], data.shape, _digest(data)]), config["data"])
            _check_effect(swept, first, config["data"])
        facts = facts_of(config["data"], data, seed)
        said = [sentence(facts), *remarks(facts)]
        lines |= dict.fromkeys(f"{name}: {text}" for text in said)
        shapes[json.dumps(config["data"])] = config["data"]["shape"] or facts["shape"], len(facts["classes"])
    return [*lines, *_arranged([config for config, _ in asked], shapes)]


def _arranged(configs: Iterable[Mapping[str, Any]], shapes: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of a network of one's own in each order that is asked for, or in each arrangement if none is."""
    first: dict[str, Mapping[str, Any]] = {}
    for config in configs:
        first.setdefault(json.dumps([config["arrangement"], config["model"]]), config)
    orders = [config for config in first.values() if has_bn(config) and has(config["arrangement"], "dropout")]
    for config in orders or first.values():
        if text := "\n".join(shown(config, *shapes[json.dumps(config["data"])])):
            yield text
