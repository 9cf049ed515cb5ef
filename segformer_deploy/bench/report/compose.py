"""`Results` -> `Document`: which sections there are, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from segformer_deploy.bench.report.commands import commands_of_results
from segformer_deploy.bench.report.known import sections_of_others
from segformer_deploy.bench.report.machine_section import section_of_group
from segformer_deploy.bench.report.model import Accuracy, Group, Results, groups_from_cases
from segformer_deploy.bench.report.parts import (
    Block,
    Cell,
    Document,
    Folded,
    Section,
    Table,
    count,
    fixed,
)

TITLE = "SegFormer: results"


def document_from_results(results: Results, *, when: str = "", title: str = TITLE) -> Document:
    """The whole report.

    Args:
        when: when it was written, as text; left out where empty.
        title: its heading.
    """
    groups = groups_from_cases(results.cases)
    sections = [
        section_of_group(group, results.others, index) for index, group in enumerate(groups)
    ]
    if results.accuracies:
        sections.append(_accuracy_section(results.accuracies))
    sections += sections_of_others(results.others)
    commands = commands_of_results(results)
    if commands:
        sections.append(
            Section(
                "repeat",
                "How to repeat it",
                ("On the same machine, with nothing else running.",),
                blocks=tuple(commands),
            )
        )
    sections.append(_reading_section())
    if results.unread:
        sections.append(_unread_section(results.unread))
    subtitle = _subtitle(results, groups, when)
    return Document(title, subtitle, _callouts(results, groups), tuple(sections))


def _subtitle(results: Results, groups: Sequence[Group], when: str) -> str:
    from segformer_deploy import __version__

    failed = sum(bool(case.error) for case in results.cases)
    estimated = sum(case.estimated for case in results.cases)
    measured = len(results.measured)
    counts = [
        _many(measured, "measured case"),
        _many(estimated, "estimated case") if estimated else "",
        f"{failed} that failed" if failed else "",
        _many(len(results.others), "other result") if results.others else "",
    ]
    real = len({group.machine.key[:-1] for group in groups if not group.estimated})
    parts = [
        ", ".join(filter(None, counts)),
        _many(real, "machine") if real else "",
        _many(results.files, "file"),
        f"segdeploy {__version__}",
        when,
    ]
    return " · ".join(filter(None, parts))


def _many(amount: int, name: str) -> str:
    return f"{amount} {name}{'' if amount == 1 else 's'}"


def _callouts(results: Results, groups: Sequence[Group]) -> tuple[str, ...]:
    found = []
    random = sum(case.random for case in results.cases)
    if random:
        found.append(
            f"{random} of {_many(len(results.cases), 'case')} ran with random weights: their speed "
            "and memory are real, their masks mean nothing."
        )
    real = [group for group in groups if not group.estimated]
    if len(real) > 1:
        found.append(
            f"These results come from {_machines(real)}. Each has its own section; no ratio and "
            "no ranking here spans two of them."
        )
    if any(case.estimated for case in results.cases):
        found.append("Some figures are estimated, not measured: they are drawn hollow and say so.")
    if results.unread:
        names = "file was" if len(results.unread) == 1 else "files were"
        found.append(f"{len(results.unread)} {names} not read; the last section says why.")
    return tuple(found)


def _machines(real: Sequence[Group]) -> str:
    """`3 machines`, or `3 machines and power modes` where one board ran in several."""
    boards = {group.machine.key[:-1] for group in real}
    return f"{len(real)} machines" + (" and power modes" if len(boards) < len(real) else "")


def _accuracy_section(accuracies: Sequence[Accuracy]) -> Section:
    rows = tuple(
        (
            Cell(accuracy.engine or accuracy.source),
            Cell(accuracy.precision),
            fixed(accuracy.miou, 2),
            fixed(accuracy.pixel_accuracy, 2),
            fixed(accuracy.mean_boundary_f, 2),
            count(accuracy.images),
        )
        for accuracy in accuracies
    )
    columns = ("engine", "precision", "mIoU %", "pixel accuracy %", "boundary F %", "images")
    blocks: list[Block] = [Table("Scores on labelled frames", columns, rows)]
    per_class = tuple(_per_class(group) for group in _by_task(accuracies) if group[0].per_class)
    if per_class:
        blocks.append(Folded("IoU of each class", per_class))
    callouts = []
    if len({accuracy.task for accuracy in accuracies}) > 1:
        callouts.append("Not all were scored on the same images: compare only those that were.")
    notes = dict.fromkeys(note for accuracy in accuracies for note in accuracy.notes)
    leads = ("Scored at the frames' own resolution.", *(f"Note: {note}." for note in notes))
    return Section("accuracy", "Accuracy", leads, tuple(callouts), blocks=tuple(blocks))


def _by_task(accuracies: Sequence[Accuracy]) -> list[list[Accuracy]]:
    found: dict[object, list[Accuracy]] = {}
    for accuracy in accuracies:
        found.setdefault(accuracy.task, []).append(accuracy)
    return list(found.values())


def _per_class(group: Sequence[Accuracy]) -> Table:
    names = [name for name, _ in group[0].per_class]
    rows = tuple(
        (Cell(name), *(fixed(dict(accuracy.per_class).get(name), 2) for accuracy in group))
        for name in names
    )
    columns = ("class", *(f"{accuracy.engine or accuracy.source} %" for accuracy in group))
    return Table(f"IoU on {group[0].images} images", columns, rows)


def _reading_section() -> Section:
    return Section(
        "reading",
        "How to read it",
        (
            "p50, p90, p99: half, nine tenths, 99 of 100 runs took no longer; interpolated between "
            "the two nearest samples and computed here from the raw samples. Below 100 runs p99 is "
            "next to the slowest one.",
            "Latency is one caller that waits for each answer; reading, decoding and drawing are "
            "outside. Frames per second of such a caller are 1000 / p50.",
            "Memory is the peak of the whole process. It holds pages of libraries that other "
            "processes share, and not a separate GPU's memory.",
            "A ratio compares cases of one machine and one run that differ in nothing else; they "
            "were measured one after the other, so read it together with the whiskers.",
        ),
    )


def _unread_section(unread: Sequence[tuple[str, str]]) -> Section:
    rows = tuple((Cell(name), Cell(reason)) for name, reason in unread)
    return Section(
        "unread", "Not read", blocks=(Table("Files that were left out", ("file", "why"), rows),)
    )
