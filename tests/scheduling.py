"""Order and distribution of the tests over pytest-xdist's workers: whole files, the longest first."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SECONDS = {
    "pipeline/steps/test_review.py::"
    "test_a_model_that_learns_its_least_confident_readings_reads_better_than_with_images_drawn_by_chance": 110,
    "pipeline/test_main.py::test_real_captchas_are_read_97_percent_exactly": 240,
    "components/training/test_trainer.py": 360,
    "engines/test_portable.py": 360,
    "engines/test_lock.py": 280,
    "components/training/test_faults.py": 220,
    "pipeline/test_crashes.py": 260,
    "test_fuzz.py": 60,
    "tfrecords/test_png.py": 50,
    "pipeline/test_hostile_night.py": 60,
    "components/test_bounds.py": 40,
    "engines/test_dask.py": 180,
    "engines/test_flink.py": 200,
    "pipeline/steps/test_train.py::"
    "test_two_nodes_of_a_scheduler_train_one_model_although_one_of_them_loses_its_worker": 180,
    "pipeline/steps/test_train.py::"
    "test_an_interrupted_training_goes_on_where_it_was_and_ends_as_if_it_had_not_been": 180,
    "pipeline/test_main.py::test_the_main_job_trains_reads_and_reports_on_its_own_sample": 150,
    "engines/test_dataflow.py": 150,
    "engines/test_object_store.py": 150,
    "pipeline/steps/test_compact.py": 140,
    "engines/test_export_store.py": 60,
    "pipeline/steps/test_export_pages.py": 40,
    "pipeline/steps/test_export.py": 40,
    "pipeline/test_box_pages.py": 40,
    "components/training/test_launcher.py": 125,
    "engines/test_object_faults.py": 120,
    "pipeline/steps/test_fine_tuning.py": 80,
    "pipeline/steps/test_failed_training.py": 130,
    "components/training/test_export.py": 110,
    "pipeline/steps/test_directions.py": 100,
    "pipeline/steps/test_ingest.py": 90,
    "engines/test_compaction_store.py": 60,
    "pipeline/steps/test_label_review.py": 70,
    "pipeline/steps/test_selftrain.py": 40,
    "pipeline/steps/test_forecast.py": 50,
    "pipeline/steps/test_training_start.py": 40,
    "pipeline/steps/test_steps.py": 60,
    "pipeline/steps/test_explain.py": 60,
    "pipeline/steps/test_train.py": 90,
    "pipeline/steps/test_tables_of_images.py": 60,
    "pipeline/steps/test_nights.py": 40,
    "components/training/test_onnx_layers.py": 35,
    "pipeline/report/test_report_in_browser.py": 35,
    "components/evaluation/test_evaluate.py": 30,
    "pipeline/steps/test_add_to.py": 30,
    "pipeline/report/test_report.py": 30,
    "pipeline/steps/test_review.py": 25,
}
"""What the longest files take, as `--durations=0` measured on two busy cores; shorter ones follow.

A test that has an entry of its own is handed out by itself.
"""


def sort_longest_first(items: list[pytest.Item]) -> None:
    """Sorts tests by the time that their file takes; within a file they keep their order."""
    items.sort(key=lambda item: -SECONDS.get(_unit_of(item.nodeid), 0))


class FileScheduling(LoadScopeScheduling):
    """Hands out whole files in the order of collection, so that what a file's tests share is built once."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return _unit_of(nodeid)


def _unit_of(nodeid: str) -> str:
    test = nodeid.removeprefix("tests/").partition("[")[0]
    return test if test in SECONDS else test.partition("::")[0]
