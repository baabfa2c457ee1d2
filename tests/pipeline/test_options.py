"""Flags are checked before anything starts, and an error names the flag, the value and the way out."""

import argparse
import pathlib

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from components.listing import LabelRules, TableColumns
from pipeline.beam_flags import COMMON_BEAM_FLAGS, list_beam_options
from pipeline.command_line import parse_options
from pipeline.options import LinePipelineOptions, UsageError, normalise_runner


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """The working directory, with label tables in it."""
    for name in ("labels.csv", "more.tsv", "LINES.JSONL", "two words.csv", "sub/labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("path,text\na.png,x\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "labels.ods").write_bytes(b"PK")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rules(*argv: str) -> LabelRules:
    return parse_options(list(argv)).label_rules


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as error:
        parse_options(list(argv))
    return str(error.value)


def test_defaults_are_the_documented_ones():
    options = parse_options([])
    assert options.step_names == ("ingest", "train", "evaluate", "infer")
    assert (options.workspace, options.model, options.height, options.seed) == ("workspace", "auto", 48, 0)
    assert (options.split_fractions.validation, options.split_fractions.test) == (0.1, 0.1)
    assert (options.label_source, options.label_pattern, options.split_by) == ("auto", "{label}", "auto")
    assert (options.path_column, options.text_column, options.max_label_length) == (None, None, 500)
    assert options.label_rules == LabelRules("auto", split_by="auto")


def test_training_flags_default_to_what_the_model_and_a_nightly_run_need():
    options = parse_options([])
    assert (options.patience, options.init_from, options.resume, options.train_restarts) == (None, None, "auto", 2)
    assert (options.epochs, options.batch_size, options.learning_rate, options.train_workers) == (None, None, None, 1)


def test_training_flags_are_passed_on(tmp_path):
    given = {"patience": 7, "init_from": "0123456789ab", "resume": "never", "train_restarts": 0, "train_workers": 2}
    options = parse_options([f"--{name}={value}" for name, value in given.items()])
    assert {name: getattr(options, name) for name in given} == given
    (tmp_path / "nightly.yaml").write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    options = parse_options([f"--config={tmp_path / 'nightly.yaml'}", "--patience=8"])
    assert {name: getattr(options, name) for name in given} == {**given, "patience": 8}


def test_a_batch_that_local_workers_cannot_share_is_refused():
    assert refusal("--batch_size=9", "--train_workers=2") == (
        "--batch_size=9 cannot be shared equally by --train_workers=2"
    )
    assert parse_options(["--batch_size=10", "--train_workers=2"]).batch_size == 10


def test_steps_run_in_their_own_order_whatever_the_order_on_the_command_line():
    assert parse_options(["--steps=evaluate, train"]).step_names == ("train", "evaluate")


def test_beams_own_flags_pass_through():
    given = parse_options(["--runner=DirectRunner", "--direct_num_workers=2"]).get_all_options(drop_default=True)
    assert given["runner"] == "DirectRunner"
    assert given["direct_num_workers"] == 2


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--epoch=3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--num_worker=3"], "unknown flag --num_worker: did you mean --num_workers?"),
        (["scans"], "'scans' is not a flag: flags are written --name=value; see --help"),
        (["--steps=ingest,trian"], "there is no step 'trian'; did you mean train?"),
        (["--model=crn"], "invalid choice: 'crn'"),
        (["--epochs=many"], "invalid int value: 'many'"),
        (["--epochs=0"], "--epochs=0 must be at least 1"),
        (["--batch_size=-2"], "--batch_size=-2 must be at least 1"),
        (["--patience=0"], "--patience=0 must be at least 1"),
        (["--patience=half"], "invalid int value: 'half'"),
        (["--patients=3"], "unknown flag --patients: did you mean --patience?"),
        (["--resume=always"], "invalid choice: 'always' (choose from 'auto', 'never')"),
        (["--resume"], "expected one argument"),
        (["--train_restarts=-1"], "--train_restarts=-1 must be at least 0"),
        (["--train_restarts=often"], "invalid int value: 'often'"),
        (["--train_workers=0"], "--train_workers=0 must be at least 1"),
        (["--init_form=model"], "unknown flag --init_form: did you mean --init_from?"),
        (["--max_label_length=0"], "--max_label_length=0 must be at least 1"),
        (["--max_label_length=-1"], "--max_label_length=-1 must be at least 1"),
        (["--max_label_length=long"], "invalid int value: 'long'"),
        (["--label_sources=auto"], "unknown flag --label_sources: did you mean --label_source?"),
        (["--pattern={label}"], "unknown flag --pattern"),
        (["--height=4"], "--height=4 must be from 16 to 512 pixels"),
        (["--height=tall"], "invalid int value: 'tall', which has to be a whole number, from 16 to 512 pixels"),
        (["--max_pixels=178956971"], "--max_pixels=178956971 must be from 1 to 178956970, Pillow's own limit"),
        (["--seed=4294967296"], "--seed=4294967296 must be from 0 to 4294967295"),
        (["--learning_rate=10"], "--learning_rate=10 must be above 0 and below 10"),
        (["--max_cer=nan"], "--max_cer=nan must be from 0 to 1"),
        (["--max_cer=low"], "invalid float value: 'low', which has to be a number, from 0 to 1"),
        (["--alarm_drift=nan"], "--alarm_drift=nan must be above 0"),
        (["--validation_fraction=1"], "--validation_fraction=1 must be at least 0 and below 1"),
        (["--learning_rate=0"], "--learning_rate=0 must be above 0"),
        (["--max_cer=3"], "--max_cer=3 must be from 0 to 1"),
        (["--validation_fraction=0.6", "--test_fraction=0.5"], "leave something for training"),
        (["--images=scans"], "add --infer_images=DIR, or leave inference out with --steps=ingest,train,evaluate"),
        (["--charset=nowhere.txt"], "--charset=nowhere.txt is not a file"),
        (["--config=nowhere.yaml"], "--config=nowhere.yaml cannot be read"),
        (["--steps=compact"], "merges the runs of one day: say which, as --date=YYYY-MM-DD"),
        (["--steps=compact", "--date=20260131"], "--date=20260131 is not a day, written YYYY-MM-DD"),
        (["--steps=compact", "--date=2026-02-30"], "--date=2026-02-30 is not a day, written YYYY-MM-DD"),
        (["--date=2026-01-31"], "--date=2026-01-31 is for the compact step"),
        (["--retention_days=0"], "--retention_days=0 must be at least 1"),
        (["--prediction_retention_days=-1"], "--prediction_retention_days=-1 must be at least 1"),
    ],
)
def test_a_bad_flag_is_refused_with_the_way_out(argv, sentence):
    with pytest.raises(UsageError) as refusal:
        parse_options(argv)
    assert sentence in str(refusal.value)


def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path):
    config = tmp_path / "nightly.yaml"
    config.write_text(
        "epochs: 7\nsteps: [ingest, train]\nmodel: crnn_v1\nrunner: DirectRunner\nsave_main_session: true\n"
    )
    options = parse_options([f"--config={config}", "--epochs=9"])
    assert (options.epochs, options.model, options.step_names) == (9, "crnn_v1", ("ingest", "train"))
    assert options.get_all_options()["runner"] == "DirectRunner"
    assert options.get_all_options()["save_main_session"] is True


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epoch: 3", "unknown flag --epoch: did you mean --epochs?"),
        ("label_source:", "label_source has no value; leave it out to get the default"),
        ("- epochs", "must hold flags by name"),
        ("epochs: [", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_bad_config_file_is_refused_by_its_name(tmp_path, content, sentence):
    config = tmp_path / "nightly.yaml"
    config.write_text(content)
    with pytest.raises(UsageError) as refusal:
        parse_options([f"--config={config}"])
    assert f"--config={config}" in str(refusal.value)
    assert sentence in str(refusal.value)


# Flags for labels


@pytest.mark.parametrize("source", ["auto", "filename", "sidecar"])
def test_a_label_source_is_passed_on(source):
    assert rules(f"--label_source={source}") == LabelRules(source, split_by="auto")


def test_a_label_source_that_is_a_table_becomes_an_absolute_path(here):
    assert rules("--label_source=labels.csv") == LabelRules("table", tables=(f"{here}/labels.csv",), split_by="auto")
    assert rules("--label_source=./sub/../more.tsv").tables == (f"{here}/more.tsv",)
    assert rules(f"--label_source={here}/LINES.JSONL").tables == (f"{here}/LINES.JSONL",)
    assert rules("--label_source=two words.csv").tables == (f"{here}/two words.csv",)


def test_a_table_in_the_home_folder_is_found(here, monkeypatch):
    monkeypatch.setenv("HOME", f"{here}/sub")
    assert rules("--label_source=~/labels.csv").tables == (f"{here}/sub/labels.csv",)


def test_several_tables_are_separated_by_commas(here):
    expected = (f"{here}/labels.csv", f"{here}/sub/labels.csv", f"{here}/more.tsv")
    assert rules("--label_source=labels.csv,sub/labels.csv,more.tsv").tables == expected
    assert rules("--label_source= labels.csv , sub/labels.csv, more.tsv").tables == expected


def test_a_glob_names_several_tables_in_the_order_of_their_names(here):
    for name in ("sub/b.csv", "sub/a.csv", "sub/[x].csv", "sub/x.csv", "sub/folder.csv/y.csv"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    found = [f"{here}/sub/{name}.csv" for name in ("[x]", "a", "b", "labels", "x")]
    assert list(rules("--label_source=sub/*.csv").tables) == found
    assert list(rules("--label_source=more.tsv,sub/*.csv,sub/a.csv").tables) == [f"{here}/more.tsv", *found]
    assert list(rules("--label_source=sub/[x].csv").tables) == [f"{here}/sub/[x].csv"]
    with pytest.raises(UsageError, match=r"there is no file .*/none\*\.csv"):
        rules("--label_source=none*.csv")


def test_a_table_that_is_named_twice_is_read_once(here):
    assert rules("--label_source=labels.csv,./labels.csv").tables == (f"{here}/labels.csv",)


def test_a_url_of_a_table_is_passed_on_as_it_is_and_looked_for_later(here):
    assert rules("--label_source=gs://bucket/a/../labels.csv, labels.csv").tables == (
        "gs://bucket/a/../labels.csv",
        f"{here}/labels.csv",
    )


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        *(("sidecars", "sidecar"), ("side_car", "sidecar"), ("file_name", "filename"), ("Auto", "auto")),
        *(("labels.doc", None), ("folder", None), ("gs://bucket/labels.xml", None), ("", None)),
    ],
)
def test_a_label_source_that_is_nothing_known_is_refused_with_the_nearest_one(here, source, hint):
    assert refusal(f"--label_source={source}") == (
        f"--label_source={source} is none of auto, filename, sidecar, and no .csv, .tsv, .jsonl, .txt, .json, .xlsx, "
        ".xls, .ods, .parquet file" + (f": did you mean {hint}?" if hint else "")
    )


@pytest.mark.parametrize(
    "source", ["sidecar,labels.csv", "labels.csv,auto", "labels.csv,", ",labels.csv", "filename,sidecar"]
)
def test_a_table_cannot_be_joined_with_another_label_source(here, source):
    assert refusal(f"--label_source={source}").startswith(f"--label_source={source} is none of auto, filename, sidecar")


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        *(
            ("gone.csv", "gone.csv"),
            ("labels.csv,gone.tsv", "gone.tsv"),
            ("labels.csv, sub/gone.jsonl", "sub/gone.jsonl"),
        ),
        *(("folder.csv", "folder.csv"), ("dangling.csv", "dangling.csv")),
    ],
)
def test_a_table_that_is_not_there_is_named(here, source, missing):
    assert refusal(f"--label_source={source}") == f"--label_source={source}: there is no file {here}/{missing}"


@pytest.mark.parametrize("source", ["auto", "filename"])
@pytest.mark.parametrize("pattern", ["{label}", "{label}_{id}", "{id}-{label}-{page}"])
def test_a_pattern_for_names_is_passed_on(source, pattern):
    found = rules(f"--label_source={source}", f"--label_pattern={pattern}")
    assert found == LabelRules(source, pattern=pattern, split_by="auto")


@pytest.mark.parametrize("source", ["auto", "filename", "sidecar", "labels.csv"])
@pytest.mark.parametrize("pattern", ["", "{id}", "{label}{label}", "{label", "{label}_{}"])
def test_a_pattern_that_cannot_be_is_refused(here, source, pattern):
    sentence = refusal(f"--label_source={source}", f"--label_pattern={pattern}")
    assert sentence.startswith(f"--label_pattern={pattern} has to name {{label}} once")


@pytest.mark.parametrize("source", ["sidecar", "labels.csv"])
def test_a_pattern_for_names_is_refused_where_labels_come_from_elsewhere(here, source):
    assert refusal(f"--label_source={source}", "--label_pattern={label}_{id}") == (
        f"--label_pattern={{label}}_{{id}} is for file names, but --label_source={source}"
    )
    assert rules(f"--label_source={source}", "--label_pattern={label}").pattern == "{label}"


@pytest.mark.parametrize("source", ["auto", "filename", "sidecar", "labels.csv"])
@pytest.mark.parametrize("split_by", ["auto", "image", "folder", "given"])
def test_images_and_folders_are_kept_together_wherever_labels_come_from(here, source, split_by):
    found = rules(f"--label_source={source}", f"--split_by={split_by}")
    assert (found.split_by, found.columns) == (split_by, TableColumns())


@pytest.mark.parametrize("source", ["auto", "labels.csv"])
def test_columns_are_passed_on_where_labels_may_come_from_a_table(here, source):
    found = rules(
        f"--label_source={source}",
        "--path_column=Scan No",
        "--text_column=line",
        "--split_by=page",
        "--max_label_length=7",
    )
    assert found.columns == TableColumns(path="Scan No", text="line", group="page")
    assert (found.split_by, found.max_label_length) == ("page", 7)


def test_the_text_column_may_be_that_of_tables_that_hold_the_images():
    assert parse_options(["--label_source=sidecar", "--text_column=line"]).text_column == "line"


@pytest.mark.parametrize("source", ["filename", "sidecar"])
def test_columns_are_refused_where_labels_come_from_no_table(source):
    for flag in ("--path_column=scan", *(["--text_column=line"] if source == "filename" else [])):
        assert refusal(f"--label_source={source}", flag) == f"{flag} is for label tables, but --label_source={source}"
    assert refusal(f"--label_source={source}", "--split_by=page") == (
        f"--split_by=page is a column of a label table, but --label_source={source}: use image, folder or given, "
        "or a table as --label_source"
    )


@pytest.mark.parametrize("source", ["filename", "sidecar"])
@pytest.mark.parametrize("images", ["night.csv", "lines, lists/*.TSV"])
def test_the_path_column_may_be_that_of_a_table_to_read_alone(source, images):
    options = parse_options([f"--label_source={source}", "--path_column=scan", f"--infer_images={images}"])
    assert options.path_column == "scan"
    assert "--path_column" in refusal(f"--label_source={source}", "--path_column=scan", "--infer_images=lines")


def test_a_config_file_may_list_tables(here):
    (here / "nightly.yaml").write_text(
        "label_source: [labels.csv, more.tsv]\nsplit_by: page\npath_column: scan\nmax_label_length: 7\n"
    )
    found = rules("--config=nightly.yaml")
    assert found.tables == (f"{here}/labels.csv", f"{here}/more.tsv")
    assert (found.columns.path, found.columns.group, found.max_label_length) == ("scan", "page", 7)


# Beam's flags


def flags_of(options_class: type[PipelineOptions]) -> tuple[set[str], set[str]]:
    """The flags that a class of options adds, and the names under which their values are kept."""
    parser = argparse.ArgumentParser(add_help=False)
    options_class._add_argparse_args(parser)
    return (
        {flag for action in parser._actions for flag in action.option_strings},
        {action.dest for action in parser._actions},
    )


def test_no_flag_of_ours_is_one_of_beams():
    ours, our_names = flags_of(LinePipelineOptions)
    assert {"--label_source", "--label_pattern", "--path_column", "--text_column", "--split_by"} <= ours
    others = list_beam_options(on_dask=True)
    assert len(others) > 10
    for cls in others:
        flags, names = flags_of(cls)
        assert not ours & flags, cls
        assert not our_names & names, cls


def test_the_flags_of_beam_are_all_that_its_own_module_has():
    found = {cls for cls in PipelineOptions.__subclasses__() if cls.__module__ == PipelineOptions.__module__}
    assert set(list_beam_options(on_dask=False)) == found


def test_the_flags_of_beam_that_help_texts_mention_exist():
    known = set().union(*(flags_of(cls)[0] for cls in list_beam_options(on_dask=True)))
    assert {f"--{flag.name}" for flag in COMMON_BEAM_FLAGS} <= known


def test_flags_of_dask_are_unknown_without_its_runner_whatever_was_imported():
    from apache_beam.runners.dask.dask_runner import DaskOptions

    assert DaskOptions in PipelineOptions.__subclasses__()
    for flag in sorted(flags_of(DaskOptions)[0]):
        assert refusal(f"{flag}=5") == f"{flag} is a flag for --runner=DaskRunner alone"
        assert refusal("--runner=DirectRunner", f"{flag}=5") == f"{flag} is a flag for --runner=DaskRunner alone"
    assert refusal("--epoch=3") == "unknown flag --epoch: did you mean --epochs?"


def test_a_flag_of_another_module_that_was_imported_is_unknown():
    class OtherOptions(PipelineOptions):
        @classmethod
        def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--qqqqqqqq")

    assert OtherOptions in PipelineOptions.__subclasses__()
    assert refusal("--qqqqqqqq=1") == "unknown flag --qqqqqqqq; see --help"


def test_no_flag_of_ours_hides_a_method_of_beams_options():
    _, our_names = flags_of(LinePipelineOptions)
    assert not our_names & set(dir(PipelineOptions))


def test_a_table_whose_name_has_a_comma_is_one_table(tmp_path):
    table = tmp_path / "a,b.csv"
    table.write_text("path,text\n")
    options = parse_options([f"--label_source={table}", "--steps=ingest"])
    assert options.label_rules.tables == (str(table),)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("DataflowRunner", "dataflowrunner"),
        ("dataflow", "dataflowrunner"),
        ("Dask", "daskrunner"),
        ("apache_beam.runners.portability.fn_api_runner.FnApiRunner", "fnapirunner"),
        (None, "directrunner"),
    ],
)
def test_runners_are_known_by_all_names_that_beam_understands(given, kind):
    assert normalise_runner(given) == kind


def test_a_runner_that_beam_does_not_know_is_refused():
    with pytest.raises(UsageError, match="is none that Beam knows; did you mean DataflowRunner"):
        parse_options(["--runner=DataflwRunner"])
