"""What a worker says reaches the person as the one sentence that it was."""

import contextlib
import logging
import sys
import threading

import apache_beam as beam
import pytest

from components.processes import HelperPool
from pipeline.command_line import parse_options
from pipeline.engines import dask_cluster
from pipeline.engines.errors import JobLostError, translate_error
from pipeline.engines.jobs import describe_runner, run_job
from pipeline.engines.logs import quieten_engines
from tfrecords import DataError

CLUSTER = "--dask_client_address=tcp://10.0.0.1:8786"


def _refuse(element):
    raise DataError(f'element "{element}" is wrong: leave it out')


def test_direct_runner_is_run_in_this_process_and_says_so():
    assert describe_runner(parse_options(["--runner=DirectRunner"])) == describe_runner(parse_options([]))
    assert "FnApiRunner" in describe_runner(parse_options([]))
    assert describe_runner(parse_options(["--runner=PortableRunner"])) == "PortableRunner"


@pytest.mark.parametrize("argv", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]])
def test_a_sentence_of_ours_arrives_without_beams_additions(argv, caplog, capfd):
    with pytest.raises(DataError) as refusal:
        run_job(parse_options(argv), lambda pipeline: pipeline | beam.Create([7]) | beam.Map(_refuse))
    assert str(refusal.value) == 'element "7" is wrong: leave it out'
    assert "Traceback" not in caplog.text


def test_an_error_that_is_not_ours_is_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        run_job(
            parse_options([]),
            lambda pipeline: pipeline | beam.Create([0]) | beam.Map(lambda element: 1 / element),
        )


_GRPC = "org.apache.beam.vendor.grpc.v1p60p1.io.grpc.StatusRuntimeException"


@pytest.mark.parametrize(
    "said",
    [
        f"{_GRPC}: {_GRPC}: CANCELLED: client cancelled",
        "org.apache.flink.runtime.io.network.netty.exception.RemoteTransportException: Connection unexpectedly closed "
        "by remote task manager 'host/10.0.0.2:34363 [ host:25867-6e ] '. This might indicate that the remote task "
        "manager was lost.",
        "java.util.concurrent.TimeoutException: Heartbeat of TaskManager with id 10.0.0.2:30799-4c81ec timed out.",
        "org.apache.flink.runtime.jobmaster.JobMasterException: TaskManager with id 10.0.0.2:30799-4c81ec is no longer "
        "reachable.",
        "org.apache.flink.runtime.rpc.exceptions.RecipientUnreachableException: Could not send message "
        "[RemoteRpcInvocation(TaskExecutorGateway.submitTask(TaskDeploymentDescriptor, JobMasterId, Time))] from",
        "java.lang.IllegalStateException: Process died with exit code 137",
    ],
)
def test_what_flink_says_of_a_lost_worker_becomes_a_sentence(said):
    translated = translate_flinks(said)
    assert str(translated).startswith("FlinkRunner: the job failed because a worker was lost")
    assert said in translated.story


def test_what_flink_says_of_a_lost_job_manager_becomes_a_sentence():
    translated = translate_flinks("java.net.ConnectException: Connection refused")
    assert str(translated).startswith("FlinkRunner: the connection to the engine broke (connection refused); when it")


def test_what_flink_says_when_slots_are_too_few_becomes_a_sentence():
    translated = translate_flinks("java.util.concurrent.TimeoutException: Timeout has occurred: 20000 ms")
    assert str(translated).startswith("FlinkRunner: the job got no task slots for 20 s: start more task managers")


def translate_flinks(said):
    error = RuntimeError(f"Pipeline BeamApp-1_2 failed in state FAILED: {said}")
    translated = translate_error(error, "FlinkRunner", local=False)
    assert isinstance(translated, JobLostError)
    return translated


@pytest.mark.parametrize("name", ["DaskRunner", "daskrunner", "dask", dask_cluster.DASK_RUNNER])
def test_dask_has_a_short_name_and_its_own_flags(name, tmp_path):
    assert describe_runner(parse_options([f"--runner={name}", CLUSTER])) == "DaskRunner (tcp://10.0.0.1:8786)"
    config = tmp_path / "dask.yaml"
    config.write_text(f"runner: {name}\ndask_client_address: tcp://10.0.0.2:1\ndask_npartitions: 5\nepochs: 3\n")
    options = parse_options([f"--config={config}", "--epochs=4"])
    assert describe_runner(options) == "DaskRunner (tcp://10.0.0.2:1)"
    assert options.epochs == 4
    assert str(config) in describe_runner(parse_options([f"--runner={name}", f"--dask_scheduler_file={config}"]))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--runner=DaskRunner"], "needs the address of a Dask scheduler, as --dask_client_address=tcp://HOST:8786"),
        (["--runner=DaskRunner", CLUSTER, "--dask_connection_timeout=5s"], "a whole number of seconds"),
        (["--runner=DaskRunner", "--dask_scheduler_file=nowhere.json"], "--dask_scheduler_file=nowhere.json is not a"),
        (["--runner=DaskRunner", CLUSTER, "--setup_file=./setup.py"], "--setup_file has no effect with --runner=Dask"),
        (["--runner=DaskRunner", CLUSTER, "--extra_package=x.tar.gz"], "--extra_package has no effect"),
        (["--runner=DaskRunner", "--dask_client_adress=x"], "did you mean --dask_client_address"),
        (["--runner=DaskRunner", CLUSTER, "--dask_npartitions=2", "--dask_partition_size=2"], "not allowed with"),
    ],
)
def test_flags_that_cannot_be_for_dask_are_refused(flags, sentence):
    with pytest.raises(DataError, match=sentence):
        parse_options(flags)


def test_without_dask_its_runner_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DataError, match=r"needs Dask .*pip install -c constraints.txt '.\[dask\]'"):
        parse_options(["--runner=DaskRunner", CLUSTER])


@pytest.mark.parametrize(
    ("flags", "threads", "expected", "spread"),
    [
        ([], 1, (8, None), True),
        ([], 20, (40, None), True),
        ([], 1000, (128, None), True),
        (["--dask_npartitions=3"], 20, (3, None), True),
        (["--dask_partition_size=2"], 20, (None, 2), False),
    ],
)
def test_dask_gets_as_many_partitions_as_its_workers_need_or_as_the_user_says(flags, threads, expected, spread):
    from apache_beam.runners.dask.dask_runner import DaskOptions

    options = parse_options(["--runner=DaskRunner", CLUSTER, *flags])
    pipeline = beam.Pipeline(runner=dask_cluster.DASK_RUNNER, options=options)
    pipeline | beam.Create([(0, 0)]) | "Group" >> beam.GroupByKey()
    dask_cluster._choose_partitions(pipeline, threads)
    chosen = pipeline.options.view_as(DaskOptions)
    assert (chosen.npartitions, chosen.partition_size) == expected
    assert ("Group/Spread" in pipeline.applied_labels) == spread


def _logging_state():
    names = (
        None,
        "apache_beam.runners.common",
        "apache_beam.runners.worker.sdk_worker",
        "apache_beam.runners.worker.data_plane",
        "apache_beam.runners.portability.local_job_service",
        "apache_beam.runners.portability.fn_api_runner.worker_handlers",
        "distributed.client",
    )
    loggers = [logging.getLogger(name) for name in names]
    return [(logger.name, logger.level, [*logger.filters]) for logger in loggers], threading.excepthook


@pytest.mark.parametrize("ends", ["done", "refused", "interrupted"])
def test_nothing_of_a_job_stays_behind(ends):
    before = _logging_state()
    pools: list[HelperPool] = []
    error, expected = {
        "done": (None, None),
        "refused": (DataError("enough"), DataError),
        "interrupted": (KeyboardInterrupt(), RuntimeError),  # as Beam passes it on
    }[ends]

    def build(pipeline):
        assert _logging_state() != before
        return pipeline | beam.Create([7]) | beam.Map(lambda element: _call_helper(element, pools, error))

    with contextlib.nullcontext() if error is None else pytest.raises(expected):
        run_job(parse_options([]), build, prepare=lambda helpers: pools.append(helpers))
    assert _logging_state() == before
    (pool,) = pools
    assert not pool.has_helpers
    with HelperPool.current() as own:
        assert own is not pool


def test_a_thread_that_notices_a_lost_service_after_the_job_prints_nothing(capsys):
    def wait_for_messages():
        lost.wait(10)
        raise ConnectionError("lost")

    lost = threading.Event()
    threading.excepthook, before = threading.__excepthook__, threading.excepthook
    try:
        with quieten_engines():
            thread = threading.Thread(target=wait_for_messages, name="wait_until_finish_read")
            thread.start()
            threading.Timer(0.2, lost.set).start()
        thread.join()
    finally:
        threading.excepthook = before
    assert capsys.readouterr().err == ""


def _call_helper(element, pools, error):
    with HelperPool.current() as helpers:
        assert [helpers.has_helpers, *helpers.map(abs, [-element], 1)] == [False, element]
        assert helpers.has_helpers
    if error is not None:
        raise error
