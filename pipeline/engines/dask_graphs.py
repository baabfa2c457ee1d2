"""Job graphs for Beam's DaskRunner: a check that it runs them right, and groups that use a whole cluster.

The runner (apache_beam/runners/dask, Beam 2.77) makes a Dask bag of each Create, ParDo, GroupByKey and Flatten, takes
whatever else it meets for the identity, and computes the last bag.
"""

from __future__ import annotations

import math

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor, PTransformOverride
from apache_beam.runners.common import DoFnSignature
from apache_beam.transforms.core import _DoFnParam

from tfrecords import DataError

_KNOWN = (beam.Create, beam.ParDo, beam.GroupByKey, beam.Flatten)
_REPLACED_WHOLE = (beam.Create, beam.Reshuffle)


def check_graph(pipeline: beam.Pipeline) -> None:
    """Makes sure that DaskRunner gives the results that other runners give.

    What no graph shows stays unseen: tagged outputs and timestamps that a function yields and nothing asks for, and
    keys that are equal in Python alone (`1` and `True`).

    Raises:
        DataError: naming the transform that it would run wrong.
    """
    transforms = _list_transforms(pipeline)
    consumed = {pcollection for applied in transforms for pcollection in applied.inputs}
    for applied in transforms:
        if problem := _explain_problem(applied):
            raise _refuse(applied, problem)
    ends = [applied for applied in transforms if consumed.isdisjoint(applied.outputs.values())]
    for applied in ends[:-1]:
        raise _refuse(applied, f"would not be run: of several ends only the last one is, {ends[-1].full_label!r}")


def spread_groups(pipeline: beam.Pipeline, partitions: int) -> None:
    """Lets a job have so many tasks at a time, from its first GroupByKey on.

    Dask groups a bag into as many partitions as the bag has. It has no more than the Create at its beginning has
    elements, so that one worker would do the whole job over the listing of one folder. Empty partitions are therefore
    added.
    """
    partitions_of: dict[beam.PCollection, int] = {}
    missing: dict[beam.GroupByKey, int] = {}
    for applied in _list_transforms(pipeline):
        count = sum(partitions_of.get(pcollection, 0) for pcollection in applied.inputs)
        if isinstance(applied.transform, beam.Create):
            elements = len(applied.transform.values)
            count = math.ceil(elements / math.ceil(elements / partitions)) if elements else 1
        elif isinstance(applied.transform, beam.GroupByKey) and count < partitions:
            missing[applied.transform] = partitions - count
            count = partitions
        partitions_of.update(dict.fromkeys(applied.outputs.values(), count))
    pipeline.replace_all([_Override(missing)])


class _SpreadGroups(beam.PTransform):
    """A GroupByKey of so many more partitions, which are empty."""

    def __init__(self, more: int):
        super().__init__()
        self._more = more

    def expand(self, pairs):
        nothing = pairs.pipeline | "Nothing" >> beam.Create([])
        return (pairs, *[nothing] * self._more) | "Spread" >> beam.Flatten() | "Group" >> beam.GroupByKey()


class _Override(PTransformOverride):
    def __init__(self, more: dict[beam.GroupByKey, int]):
        self._more = more

    def matches(self, applied: AppliedPTransform) -> bool:
        return applied.transform in self._more

    def get_replacement_transform_for_applied_ptransform(self, applied: AppliedPTransform) -> beam.PTransform:
        return _SpreadGroups(self._more[applied.transform])


def _list_transforms(pipeline: beam.Pipeline) -> list[AppliedPTransform]:
    """Lists transforms in their order, as the runner sees them: composite ones that it does not know by their parts."""
    found: list[AppliedPTransform] = []

    class Visitor(PipelineVisitor):
        inside = 0

        def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
            if isinstance(transform_node.transform, _REPLACED_WHOLE):
                if not self.inside:
                    found.append(transform_node)
                self.inside += 1

        def leave_composite_transform(self, transform_node: AppliedPTransform) -> None:
            self.inside -= isinstance(transform_node.transform, _REPLACED_WHOLE)

        def visit_transform(self, transform_node: AppliedPTransform) -> None:
            if not self.inside:
                found.append(transform_node)

    pipeline.visit(Visitor())
    return found


def _explain_problem(applied: AppliedPTransform) -> str | None:
    """Explains what DaskRunner would do wrong with a transform; None if nothing."""
    transform = applied.transform
    if isinstance(transform, beam.WindowInto) or not all(
        output.windowing.is_default() for output in applied.outputs.values()
    ):
        return "has windows, which would be ignored"
    if not isinstance(transform, _KNOWN):
        return "is none of Create, ParDo, GroupByKey and Flatten, and would be passed over"
    if isinstance(transform, beam.Flatten) and not applied.inputs:
        return "flattens nothing, and would fail"
    return _explain_pardo_problem(applied) if isinstance(transform, beam.ParDo) else None


def _explain_pardo_problem(applied: AppliedPTransform) -> str | None:
    function = applied.transform.fn
    signature = DoFnSignature(function)
    if applied.side_inputs:
        return "has a side input, whose elements would be counted several times"
    if applied.transform.output_tags or set(applied.outputs) != {None}:
        return "has tagged outputs, which would be mixed"
    if signature.is_stateful_dofn() or signature.is_splittable_dofn():
        return "keeps state or splits its elements, and would fail"
    if type(function).finish_bundle is not beam.DoFn.finish_bundle:
        return "has a finish_bundle, whose output would be lost"
    for default in signature.process_method.defaults:
        kind = default if isinstance(default, type) else type(default)
        if issubclass(kind, _DoFnParam) and default != beam.DoFn.ElementParam:
            return f"asks for {getattr(default, 'param_id', kind.__name__)}, and would get a wrong one"
    return None


def _refuse(applied: AppliedPTransform, problem: str) -> DataError:
    return DataError(f"Beam's DaskRunner cannot run this job: {applied.full_label} {problem}; use another --runner")
