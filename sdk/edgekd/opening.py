"""From a path to a float graph that computes the same, and to samples that look right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgekd.errors import DataError, UsageError
from edgekd.finding import Finding
from edgekd.fits import as_teacher_of, check_fits, count_classes, public_inputs
from edgekd.inputs import Inputs, count, read_inputs, take
from edgekd.lint import lint
from edgekd.options import ConvertOptions
from edgekd.preprocessing import preprocess_for
from edgekd.stages import Stages
from edgekd.student import Student, open_student
from edgekd_converters.graph import Graph
from edgekd_converters.load import open_model
from edgekd_converters.load.equivalence import Equivalence, check, to_source
from edgekd_converters.load.source import LoadOptions
from edgekd_runtime.preprocess import Media

_COMPARED = 100


@dataclass(frozen=True)
class Opening:
    """What a conversion starts from.

    ``layouts``: of public inputs and outputs whose axes the source has in another order, the permutation that takes
    its arrays to the graph's. ``equivalence``: the source in its own framework against ``graph``, on some samples.
    ``findings``: what the linter says of the samples. ``notes``: what people should know of the source.
    """

    student: Student
    format: str
    graph: Graph
    layouts: Mapping[str, tuple[int, ...]]
    data: Inputs
    equivalence: Equivalence
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes: the model's own, or else those that the samples have."""
        names = self.student.labels or self.data.class_names
        return names if len(names) == count_classes(self.graph) else ()


def open_source(options: ConvertOptions, stages: Stages) -> Opening:
    """Raises ``UsageError``, ``DataError``, or ``StageError`` when the float graph is not what the source computes."""
    options.check()
    student = open_student(options.student, options.labels)
    # The source's own framework lives, in another process, as long as this block.
    with stages.held(open_model(student.model, options.load), "load") as opened:
        if options.preprocess is not None:
            student = replace(student, preprocess=_preprocess(options.preprocess, student, opened.graph))
        check_fits(options, student, opened.graph)
        with stages.stage("read samples"):
            data = read_inputs(options, student, opened.graph, opened.layouts)
        with stages.stage("compare"):
            rows = np.unique(np.linspace(0, count(data.samples) - 1, _COMPARED).astype(int))
            columns = to_source(take(data.samples, rows), opened.layouts)
            equivalence = check(opened.graph, opened.layouts, columns, opened.run, opened.layers, options.tolerance)
    with stages.stage("check samples"):
        findings = _lint(student, opened.graph, data)
        if fatal := [one for one in findings if options.strict or one.severity == "error"]:
            more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
            mild = "; without --strict this is a warning" if fatal[0].severity == "warning" else ""
            raise DataError(f"{options.samples}: {fatal[0].message}{more}{mild}")
    return Opening(
        student, opened.format, opened.graph, opened.layouts, data, equivalence, tuple(findings), tuple(opened.notes)
    )


def open_teacher(options: ConvertOptions, student: Student, loaded: Graph, stages: Stages) -> Graph:
    """The model to recover under: the student as it was loaded, unless ``options`` name another."""
    if options.teacher is None:
        return loaded
    teacher = open_student(options.teacher)
    if teacher.preprocess and (teacher.preprocess, teacher.labels) != (student.preprocess, student.labels):
        raise UsageError(f"--teacher {options.teacher}: its preprocessing and labels must be the student's own")
    with stages.held(open_model(teacher.model, LoadOptions(trust=options.load.trust)), "load teacher") as opened:
        return as_teacher_of(loaded, opened.graph)


def _preprocess(given: Mapping[str, object], student: Student, graph: Graph) -> Media:
    if student.preprocess is not None:
        raise UsageError(f"--preprocess: {student.model.parent} has its own preprocess.json")
    return preprocess_for(given, public_inputs(graph))


def _lint(student: Student, graph: Graph, data: Inputs) -> list[Finding]:
    return lint(
        data.samples,
        graph,
        targets=data.sample_targets,
        evaluation=data.evaluation,
        evaluation_targets=data.targets,
        classes=count_classes(graph),
        texts=data.texts or None,
        preprocess=student.preprocess,
    )
