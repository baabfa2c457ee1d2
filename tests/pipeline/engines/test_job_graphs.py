"""Every job that the steps build is one that Dask runs right and that Flink and Spark accept.

Graphs that DaskRunner gets wrong are refused.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_utils import validate_pipeline_graph
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.spark_runner import SparkRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.userstate import CombiningValueStateSpec

from pipeline.engines import jobs as runners
from pipeline.engines.dask_graphs import check_graph, spread_groups
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tfrecords import DataError


@pytest.fixture
def graphs(monkeypatch) -> list[tuple[str, int, list[type]]]:
    """For each job that is run: the file and line that run it, and the classes of its transforms; checked."""
    seen = []

    def run_job(options, build, **about):
        pipeline = beam.Pipeline()
        build(pipeline)
        check_portable(pipeline)
        check_graph(pipeline)
        spread_groups(pipeline, 8)
        check_graph(pipeline)
        visitor = _Classes()
        pipeline.visit(visitor)
        caller = sys._getframe(1)
        seen.append((caller.f_code.co_filename, caller.f_lineno, visitor.found))
        runners.run_job(options, build, **about)

    for module in modules_that_run_jobs():
        monkeypatch.setattr(module, "run_job", run_job)
    return seen


def modules_that_run_jobs() -> list[ModuleType]:
    """The modules of the command that call `run_job`."""
    root = Path(runners.__file__).parents[2]
    paths = [path for path in sorted((root / "pipeline").rglob("*.py")) if path.name != "__init__.py"]
    modules = [importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts)) for path in paths]
    return [module for module in modules if module is not runners and hasattr(module, "run_job")]


IMAGE = "registry/line-reader:1"
_PRIMITIVES = common_urns.primitives
RUN_BY_FLINK_AND_SPARK = {
    _PRIMITIVES.IMPULSE.urn,
    _PRIMITIVES.PAR_DO.urn,
    _PRIMITIVES.GROUP_BY_KEY.urn,
    _PRIMITIVES.FLATTEN.urn,
    _PRIMITIVES.ASSIGN_WINDOWS.urn,
    common_urns.composites.RESHUFFLE.urn,
}


def check_portable(pipeline: beam.Pipeline) -> None:
    """Makes sure that what would be sent to the job service of Flink or Spark is whole, and has only what they run."""
    options = PipelineOptions(["--environment_type=DOCKER", f"--environment_config={IMAGE}"])
    for runner in (FlinkRunner, SparkRunner):
        proto = runner.get_proto_pipeline(pipeline, options)
        proto = beam_runner_api_pb2.Pipeline.FromString(proto.SerializeToString())
        validate_pipeline_graph(proto)
        parts = proto.components
        kinds = {transform.spec.urn for transform in parts.transforms.values() if not transform.subtransforms}
        kinds -= {""}  # of what only names others
        assert {_PRIMITIVES.IMPULSE.urn, _PRIMITIVES.GROUP_BY_KEY.urn} <= kinds <= RUN_BY_FLINK_AND_SPARK
        used = {name for transform in parts.transforms.values() for name in transform.inputs.values()}
        assert used <= set(parts.pcollections)
        assert {parts.pcollections[name].is_bounded for name in used} == {beam_runner_api_pb2.IsBounded.BOUNDED}
        (environment,) = {
            parts.environments[transform.environment_id].SerializeToString()
            for transform in parts.transforms.values()
            if transform.environment_id
        }
        environment = beam_runner_api_pb2.Environment.FromString(environment)
        assert environment.urn == common_urns.environments.DOCKER.urn
        assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == IMAGE
        assert not proto.requirements


class _Classes(beam.pipeline.PipelineVisitor):
    def __init__(self):
        self.found = []

    def enter_composite_transform(self, transform_node):
        self.found.append(type(transform_node.transform))


def test_every_job_of_every_step_is_for_dask_flink_and_spark(tmp_path, tiny_images, tiny_model, graphs):
    workspace = tmp_path / "ws"
    for model_id in ("tinymodel000", "tinymodel001"):
        folder = shutil.copytree(tiny_model, workspace / "models" / model_id)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "model_id": model_id}))
    (workspace / "models" / "LATEST").write_text("tinymodel000\n")
    (workspace / "models" / "ACCEPTED").write_text("tinymodel001\n")
    table = tmp_path / "labels.csv"
    rows = [f"{path},{path.stem.partition('-')[2]}" for path in sorted(tiny_images.glob("*.png"))]
    table.write_text("\n".join(["file,text", *rows]) + "\n")
    for status, flags in (
        (EXIT_DONE, ["--steps=ingest", f"--images={tiny_images}", f"--label_source={table}"]),
        (EXIT_REFUSED, ["--steps=ingest,evaluate", f"--images={tiny_images}"]),  # untrained models are not accepted
        (EXIT_DONE, ["--steps=ingest", f"--images={tiny_images}", f"--label_source={table}", "--add_to=LATEST"]),
        (EXIT_DONE, ["--steps=infer", f"--infer_images={tiny_images},{table}"]),
        (EXIT_DONE, ["--steps=infer", f"--infer_images={tiny_images}"]),  # all of which were read
        (EXIT_DONE, ["--steps=infer", "--infer_images=dataset:LATEST:test"]),
    ):
        assert main([f"--workspace={workspace}", "--height=32", *flags]) == status
    (day,) = {path.parent.name.removeprefix("date=") for path in workspace.glob("predictions/*/run=*")}
    assert main([f"--workspace={workspace}", "--steps=compact", f"--date={day}"]) == EXIT_DONE

    jobs = [(module.__file__, call) for module in modules_that_run_jobs() for call in _calls_of_run_job(module)]
    assert len(jobs) > 1
    unseen = [
        (file, job.lineno)
        for file, job in jobs
        if not any(file == seen and job.lineno <= line <= job.end_lineno for seen, line, _ in graphs)
    ]
    assert unseen == [], "a job is run in these lines, but not by this test"
    assert {built for _, _, classes in graphs for built in classes} >= _composites_of_components()


def _calls_of_run_job(module: ModuleType) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "run_job"]


def _composites_of_components() -> set[type]:
    root = Path(runners.__file__).parents[2]
    found = set()
    for path in root.glob("components/*/transforms.py"):
        module = importlib.import_module(f"components.{path.parent.name}.transforms")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, beam.PTransform) and kind.__module__ == module.__name__:
                found.add(kind)
    assert found
    return found


class _Tagged(beam.DoFn):
    def process(self, element):
        yield element
        yield beam.pvalue.TaggedOutput("again", -element)


class _Finished(beam.DoFn):
    def process(self, element):
        return []

    def finish_bundle(self):
        yield beam.utils.windowed_value.WindowedValue("end", 0, (beam.transforms.window.GlobalWindow(),))


_COUNT = beam.DoFn.StateParam(CombiningValueStateSpec("count", sum))


class _Counting(beam.DoFn):
    def process(self, element, count=_COUNT):
        count.add(1)
        yield element


class _Asking(beam.DoFn):
    def process(self, element, timestamp=beam.DoFn.TimestampParam):
        yield timestamp


class _Finalizing(beam.DoFn):
    def process(self, element, bundle=beam.DoFn.BundleFinalizerParam):
        bundle.register(print)
        yield element


def _double(element):
    return [element, element]


WRONG = {
    "tags": (lambda n: n | "Tag" >> beam.ParDo(_Tagged()).with_outputs("again", main="main"), "Tag.* tagged outputs"),
    "ends": (lambda n: (n | "One" >> beam.Map(print), n | "Two" >> beam.Map(print)), "One would not be run.*Two"),
    "finish_bundle": (lambda n: n | "End" >> beam.ParDo(_Finished()), "End has a finish_bundle"),
    "batches": (lambda n: n | "Batch" >> beam.BatchElements(), "Batch/.* has a finish_bundle"),
    "top": (lambda n: n | "Top" >> beam.combiners.Top.Largest(2), "Top/.* has a finish_bundle"),
    "side": (lambda n: n | "Side" >> beam.Map(print, beam.pvalue.AsList(n)), "Side has a side input"),
    "default": (lambda n: n | "Sum" >> beam.CombineGlobally(sum), "Sum/.* has a side input"),
    "state": (lambda n: n | beam.WithKeys(0) | "Count" >> beam.ParDo(_Counting()), "Count keeps state"),
    "timestamp": (lambda n: n | "Ask" >> beam.ParDo(_Asking()), "Ask asks for TimestampParam"),
    "window": (lambda n: n | "Ask" >> beam.Map(lambda e, w=beam.DoFn.WindowParam: w), "Ask asks for WindowParam"),
    "finalizer": (lambda n: n | "Ask" >> beam.ParDo(_Finalizing()), "Ask asks for "),
    "windows": (lambda n: n | "Window" >> beam.WindowInto(beam.window.FixedWindows(3)), "Window has windows"),
    "reshuffle": (lambda n: n | "Mix" >> beam.Reshuffle() | beam.Map(print), "Mix is none of"),
    "impulse": (lambda n: n.pipeline | "Start" >> beam.Impulse(), "Start is none of"),
    "read": (lambda n: n.pipeline | "Read" >> beam.io.ReadFromText(__file__), "Read/.* is none of"),
    "nothing": (lambda n: () | "None" >> beam.Flatten(pipeline=n.pipeline), "None flattens nothing"),
}


@pytest.mark.parametrize("shape", WRONG)
def test_what_dask_gets_wrong_is_refused_by_its_name(shape):
    build, sentence = WRONG[shape]
    pipeline = beam.Pipeline()
    build(pipeline | beam.Create([1, 2, 3]))
    with pytest.raises(DataError, match=f"DaskRunner cannot run this job: .*{sentence}"):
        check_graph(pipeline)


def test_what_dask_gets_right_is_let_through_and_stays_right_when_it_is_spread():
    pipeline = beam.Pipeline(runner=runners.FnApiRunner())
    numbers = pipeline | beam.Create(range(9)) | beam.FlatMap(_double) | "ByParity" >> beam.WithKeys(lambda n: n % 2)
    others = pipeline | "Others" >> beam.Create([(0, "a"), (2, "b")])
    both = {"numbers": numbers, "others": others} | beam.CoGroupByKey()
    again = both | "Lengths" >> beam.MapTuple(lambda key, both: (key, len(both["numbers"]) + len(both["others"])))
    sums = (again, again) | beam.Flatten() | beam.CombinePerKey(sum)
    check_graph(pipeline)
    spread_groups(pipeline, 16)
    check_graph(pipeline)
    groups = _Labels()
    pipeline.visit(groups)
    assert groups.spread == ["CoGroupByKey/CoGroupByKeyImpl/GroupByKey"]
    assert_that(sums, equal_to([(0, 22), (1, 16), (2, 2)]))
    pipeline.run().wait_until_finish()


class _Labels(beam.pipeline.PipelineVisitor):
    def __init__(self):
        self.spread = []

    def enter_composite_transform(self, transform_node):
        if type(transform_node.transform).__name__ == "_SpreadGroups":
            self.spread.append(transform_node.full_label)
