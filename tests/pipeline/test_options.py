"""Flags are checked before anything starts, and an error names the flag, the value and the way out."""

import pytest

from pipeline.options import UsageError, parse_options, usage


def test_defaults_are_the_documented_ones():
    options = parse_options([])
    assert options.step_names == ("ingest", "train", "evaluate", "infer")
    assert (options.workspace, options.model, options.height, options.seed) == ("workspace", "crnn", 48, 0)
    assert (options.split_fractions.validation, options.split_fractions.test) == (0.1, 0.1)


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
        (["--height=4"], "--height=4 must be from 16 to 512 pixels"),
        (["--learning_rate=0"], "--learning_rate=0 must be above 0"),
        (["--max_cer=3"], "--max_cer=3 must be from 0 to 1"),
        (["--validation_fraction=0.6", "--test_fraction=0.5"], "leave something for training"),
        (["--images=scans"], "add --infer_images=DIR, or leave inference out with --steps=ingest,train,evaluate"),
        (["--charset=nowhere.txt"], "--charset=nowhere.txt is not a file"),
        (["--config=nowhere.yaml"], "--config=nowhere.yaml cannot be read"),
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


def test_the_help_text_names_every_flag_of_ours():
    text = usage()
    for name in parse_options([]).get_all_options(current_only=True):
        assert f"--{name}" in text
