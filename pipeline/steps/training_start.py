"""The weights from which a training starts: random ones, a model's, or those that come with the program."""

from __future__ import annotations

from components.recogniser.manifest import ModelManifest
from components.training.base_weights import BASE, FEW_IMAGES, find_base_weights, is_base_folder
from components.training.recipes import choose_model
from pipeline.options import LinePipelineOptions
from pipeline.steps.charset_choice import read_charset_file
from pipeline.workspace import Workspace
from tfrecords import DataError, DatasetManifest
from tfrecords.directions import VISUAL, describe_lines, has_right_to_left
from tfrecords.manifest import is_id

NONE = "none"
_KNOWN = 0.5  # of the symbols that the base weights have to know

Start = tuple[str, ModelManifest]


def find_start(
    options: LinePipelineOptions, workspace: Workspace, dataset: DatasetManifest, folder: str, symbols: float
) -> Start | None:
    """Finds the folder and manifest of the model whose weights are the start; returns None for random weights.

    Without `--init_from`, the base weights are the start where there are few images.

    Args:
        folder: of the dataset.
        symbols: of a training line, on average.

    Raises:
        DataError: if the model that `--init_from` names is not there, or does not fit the dataset or `--model`.
    """
    named = options.init_from
    if named in (None, NONE, BASE):
        return find_base_start(options, dataset, folder, symbols)
    for place in (workspace.model(named), named) if is_id(named) else (named,):
        try:
            return _check((place, ModelManifest.read(place)), options, dataset)
        except (FileNotFoundError, NotADirectoryError, TypeError):  # the last for the manifest of a dataset
            continue
    raise DataError(
        f"--init_from={named} is neither the ID of a model in {workspace.root}/models nor the folder of a model"
    )


def find_base_start(
    options: LinePipelineOptions, dataset: DatasetManifest, folder: str, symbols: float
) -> Start | None:
    """Finds the base weights if they are the start; no other model is.

    Args:
        folder, symbols: as for `find_start`.

    Raises:
        DataError: if `--init_from=base` is given, but there are none for the network and the height.
    """
    network = options.network or choose_model(symbols)
    base = find_base_weights(network)
    if options.init_from == BASE:
        if base is None:
            raise DataError(
                f"--init_from={BASE}: there are no base weights of the network {network}: leave --init_from or --model "
                "out"
            )
        return _check(base, options, dataset)
    few = options.init_from is None and dataset.examples("train") < FEW_IMAGES
    if not few or base is None or base[1].height != dataset.height or dataset.vertical:
        return None
    return base if _knows_most(base, dataset, folder) else None


def find_kept_symbols(options: LinePipelineOptions, start: Start | None, dataset: DatasetManifest, folder: str) -> str:
    """Finds the symbols that a fine-tuned model keeps beside those of the dataset; returns them joined, sorted.

    They are those of the model that it starts from, or those in the file of `--charset`. Base weights keep none: no
    person asked for their symbols.

    Args:
        folder: of the dataset.

    Raises:
        DataError: if that file cannot be used, or lacks symbols of the dataset; or if letters that run from right to
            left would be kept, and the dataset does not say how they stand on an image.
    """
    if start is None or is_base(start):
        return ""
    kept = _find_kept_symbols(options, start, dataset, folder)
    _, model = start
    if has_right_to_left(kept) and dataset.base_direction == VISUAL != model.base_direction:
        raise DataError(
            f"--init_from={options.init_from} writes right-to-left text, of which dataset {dataset.dataset_id} has "
            "none: ingest the images with --add_to the dataset of that model, or name with --charset the symbols to "
            "keep"
        )
    return kept


def _find_kept_symbols(options: LinePipelineOptions, start: Start, dataset: DatasetManifest, folder: str) -> str:
    symbols = dataset.read_charset(folder).symbols
    if not options.charset:
        return "".join(start[1].read_charset(start[0]).missing_from(symbols))
    asked = read_charset_file(options.charset)
    if missing := asked.missing("".join(symbols)):
        raise DataError(
            f"--charset={options.charset} lacks symbols of dataset {dataset.dataset_id} "
            f"({', '.join(map(repr, missing))}): add them to the file, or leave the flag out"
        )
    return "".join(asked.missing_from(symbols))


def _knows_most(base: Start, dataset: DatasetManifest, folder: str) -> bool:
    """Checks whether base weights know most of the symbols of a dataset."""
    symbols = dataset.read_charset(folder).symbols
    known = set(base[1].read_charset(base[0]).symbols)
    return sum(symbol in known for symbol in symbols) >= _KNOWN * len(symbols)


def _check(start: Start, options: LinePipelineOptions, dataset: DatasetManifest) -> Start:
    """Returns a start that fits the dataset and `--model`; raises a `DataError` for another."""
    _, model = start
    named = options.init_from
    if options.network not in (None, model.model):
        raise DataError(
            f"--init_from={named} is a model of the network {model.model}, which cannot be the start of "
            f"--model={options.network}: leave --model out"
        )
    if model.height != dataset.height:
        raise DataError(
            f"--init_from={named} reads lines of height {model.height}, but those of dataset "
            f"{dataset.dataset_id} are {dataset.height} pixels high: ingest with --height={model.height}"
        )
    if model.vertical != dataset.vertical:
        raise DataError(
            f"--init_from={named} reads {describe_lines(model.vertical)}, but dataset {dataset.dataset_id} has "
            f"{describe_lines(dataset.vertical)}: ingest {'with' if model.vertical else 'without'} --vertical"
        )
    return start


def is_base(start: Start | None) -> bool:
    """Checks whether a start is base weights."""
    return start is not None and is_base_folder(start[0])


def is_fine_tuning(start: Start | None) -> bool:
    """Checks whether a training continues that of a model, and does not begin with random or base weights."""
    return start is not None and not is_base(start)
