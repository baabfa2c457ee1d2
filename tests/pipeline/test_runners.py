"""What a worker says reaches the person as the one sentence that it was."""

import apache_beam as beam
import pytest

from pipeline.options import parse_options
from pipeline.runners import run_job, runner_name
from tfrecords import DataError


def _refuse(element):
    raise DataError(f'element "{element}" is wrong: leave it out')


def test_direct_runner_is_run_in_this_process_and_says_so():
    assert runner_name(parse_options(["--runner=DirectRunner"])) == runner_name(parse_options([]))
    assert "FnApiRunner" in runner_name(parse_options([]))
    assert runner_name(parse_options(["--runner=PortableRunner"])) == "PortableRunner"


@pytest.mark.parametrize("argv", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]])
def test_a_sentence_of_ours_arrives_without_beams_additions(argv, caplog, capfd):
    with pytest.raises(DataError) as refusal:
        run_job(parse_options(argv), lambda pipeline: pipeline | beam.Create([7]) | beam.Map(_refuse))
    assert str(refusal.value) == 'element "7" is wrong: leave it out'
    assert "Traceback" not in caplog.text


def test_an_error_that_is_not_ours_is_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        run_job(parse_options([]), lambda pipeline: pipeline | beam.Create([0]) | beam.Map(lambda element: 1 / element))
