"""normdrop-report FOLDER: write the page of what has finished, and say the answer and what to open."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

from normdrop.study.told import prepare, runnable

# The rest is imported where it is needed: --help, and what is refused at once, shall not wait for it.

atexit.register(gc.freeze)  # as in the application: the end takes no second


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="normdrop-report", description="Turn what has finished into an answer.")
    parser.add_argument("folder", type=Path, help="outputs/<name>, or a folder of several studies")
    parser.add_argument("--against", type=Path, metavar="OTHER", help="say where this run differs from that one")
    said = "first write the seeds and records, made small, to DIR, and report on those"
    parser.add_argument("--publish", type=Path, metavar="DIR", help=said)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the page to DIR/report, not to FOLDER/report")
    options = parser.parse_args(arguments)
    prepare()
    try:
        _check(options)
        _report(options)
    except (ValueError, OSError) as error:
        nameless = isinstance(error, OSError) and error.filename is None  # a full disk names no file
        where = f"{options.output or options.folder}: " if nameless else ""
        print(f"normdrop-report: {where}{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "normdrop-report: stopped; an earlier page stays, if there was one; the same command writes it",
            file=sys.stderr,
        )
        return 1
    return 0


def _check(options: Namespace) -> None:
    """Raises ValueError for what cannot work, before anything is read."""
    for name, folder in (("FOLDER", options.folder), ("--against", options.against)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name} {folder}: no such directory")
    if options.publish:
        folder, published = options.folder.resolve(), options.publish.resolve()
        if published.is_relative_to(folder) or folder.is_relative_to(published):
            raise ValueError(f"--publish {options.publish}: lies in FOLDER, or holds it: every study would count twice")
    target = (options.output or options.publish or options.folder).absolute()
    there = next(parent for parent in (target, *target.parents) if parent.exists())
    for folder in (there, target / "report"):  # of which another person may have written an earlier page
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ValueError(f"{folder}: nothing can be written to it; --output DIR puts the page elsewhere")


def _report(options: Namespace) -> None:
    from normdrop import tensorboard
    from normdrop.report import page, publish
    from normdrop.report.study import load

    folder = options.folder
    print(f"reading {folder}", file=sys.stderr, flush=True)
    studies = load(folder)
    if options.publish:
        publish.write(studies, options.publish)
        folder = options.publish
        studies = load(folder)
    target = (options.output or folder) / "report"
    texts, pictures = defaultdict[Path, dict[str, str]](dict), defaultdict[Path, dict[str, Path]](dict)
    for section in page.write(studies, target, load(options.against) if options.against else []):
        root, name = section.study.folder, section.study.name
        again = f" {name}" if root in texts else ""  # of several declarations under one name
        texts[root] |= {f"{tag}{again}": text for tag, text in page.texts(section).items()}
        pictures[root] |= {f"{tag}{again}": target / file for tag, file in section.figures.items()}
    for root in texts:
        # What is published has no learning curves, and another's folder is left as it is.
        if (root / "plan.json").exists() and not options.output:
            try:
                tensorboard.write_overview(root, texts[root], pictures[root])
            except ValueError as error:
                print(f"normdrop-report: no overview for TensorBoard: {error}", file=sys.stderr)
    print("\n".join(page.first_lines(target)))
    print(f"Page: {target / 'report.html'}")
    shown = folder / "overview" if (folder / "overview").exists() else folder
    if next(shown.rglob("events.out.tfevents.*"), None):  # what is published has none
        print(f"TensorBoard: {runnable('tensorboard', '--logdir', shown)}")


if __name__ == "__main__":
    sys.exit(main())
