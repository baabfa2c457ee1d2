"""The flags of the command: one table, in which each flag stands beside the steps that use it.

Help texts, docs/flags.md and the parser are made from this table.
"""

from __future__ import annotations

from components.ctc.decoders import DECODERS
from components.export import FORMATS
from components.listing import LINKS_FOLLOWED
from components.recogniser.engines import ENGINES
from components.recogniser.manifest import RENAMED_NETWORKS
from components.training.base_weights import FEW_IMAGES
from components.training.recipes import DEFAULT_MODEL, DEFAULT_MODEL_FOR_LONG_LINES, LONG_LINE, RECIPES
from pipeline.flag_types import (
    FRACTION,
    Flag,
    FlagSection,
    number,
    read_day,
    read_metrics_path,
    read_web_address,
    whole_number,
)
from pipeline.step_names import DEFAULT_STEPS, STEPS, read_steps
from tfrecords import ImageLimits
from tfrecords.directions import LEFT_TO_RIGHT, RIGHT_TO_LEFT, VISUAL

BASE_DIRECTIONS = ("auto", LEFT_TO_RIGHT, RIGHT_TO_LEFT, VISUAL)
_PILLOW_LIMIT = 178_956_970
_LIMITS = ImageLimits()
_RECIPE = RECIPES[DEFAULT_MODEL]


def name_steps(section: FlagSection) -> str:
    """Returns the names of the steps that use a section's flags."""
    return "every step" if section.steps == STEPS else ", ".join(section.steps)


FLAG_SECTIONS = (
    FlagSection(
        "The command",
        STEPS,
        (
            Flag(
                "steps",
                "steps to run, comma separated, in any order",
                "STEP,STEP",
                default=",".join(DEFAULT_STEPS),
                type=read_steps,
            ),
            Flag(
                "workspace",
                "folder or gs:// URL that holds datasets, models, predictions and reports",
                "FOLDER",
                default="workspace",
            ),
            Flag("plan", "says what the command would do, on how many images, and changes nothing"),
            Flag("config", "YAML file of flags by their names; the command line wins", "FILE"),
            Flag(
                "notify_url",
                "address to which the record of the command is posted as JSON when it ends",
                "URL",
                type=read_web_address,
            ),
            Flag(
                "metrics_file",
                "file for the command's figures, in the text format of Prometheus",
                "FILE.prom",
                type=read_metrics_path,
            ),
            Flag(
                "retention_days",
                "after a successful command, removes older rejects of the infer step and older run reports",
                "DAYS",
                without="all are kept",
                type=whole_number(1),
            ),
            Flag(
                "prediction_retention_days",
                "after a successful command, removes older predictions; images whose predictions are gone are "
                "recognised again if they are still listed",
                "DAYS",
                without="all are kept",
                type=whole_number(1),
            ),
            Flag(
                "max_prune_fraction",
                "removes nothing of a kind, and warns, if a greater share of it would go at once, or if nothing is "
                "there from the two years after: the clock may be wrong then; 1 removes it all the same",
                default=0.5,
                type=FRACTION,
            ),
        ),
    ),
    FlagSection(
        "Texts",
        ("render", "train", "selftrain", "forecast"),
        (
            Flag(
                "texts",
                "texts of the kind that images show, one a line: the render step draws them, and the language model "
                "that the decoder may use learns from them, beside the training labels",
                "FILE",
                without="the training labels alone; the render step needs the file",
            ),
            Flag(
                "seed",
                "seed of all chance: of the initial weights, the order of images, their distortions, and what is "
                "rendered",
                default=0,
                type=whole_number(0, 2**32 - 1),
            ),
        ),
    ),
    FlagSection(
        "Rendering",
        ("render",),
        (
            Flag(
                "fonts",
                "local folder of TrueType and OpenType fonts, below which all are used that can draw a text",
                "FOLDER",
                default="/usr/share/fonts",
            ),
            Flag(
                "backgrounds",
                "local folder of images, such as your unlabelled ones, whose ground is that of most rendered images",
                "FOLDER",
                without="even and cloudy grounds",
            ),
            Flag("render_count", "images to render", default=10_000, type=whole_number(1)),
        ),
    ),
    FlagSection(
        "Images and labels",
        ("ingest",),
        (
            Flag(
                "images",
                "labelled images: folders, files, archives or tables that hold images (.tar, .zip, .parquet, …), "
                "or globs, comma separated",
                "PATHS",
                without="the folder of the label table, or a sample collection rendered into the workspace",
            ),
            Flag(
                "label_source",
                "where labels are: in the file name (filename), in a .gt.txt or .txt file beside each image "
                "(sidecar), or in tables or lists, given by their paths or a glob (.csv, .tsv, .txt, .json, .jsonl, "
                ".xlsx, .xls, .ods, .parquet; comma separated); "
                "auto looks, and says what it found",
                "SOURCE",
                default="auto",
            ),
            Flag(
                "label_pattern",
                "pattern of file names without their suffix, such as {label}_{id}; with a slash also of the folders "
                "above: {label}/{name} takes the name of the folder as label",
                "PATTERN",
                default="{label}",
            ),
            Flag(
                "text_column", "column of a label table that holds the text", "NAME", without="one of the usual names"
            ),
            Flag(
                "split_by",
                "what stays together in training, validation or test: each image by itself (image), the lines of one "
                "page (page, with --pages), the images of one folder (folder), or the images with the same value in a "
                "column of the label table, given by its name; given: the folders train, val and test, such tables "
                "or a column of splits say where each image belongs; auto is given where there are such, else page "
                "with --pages, or image",
                "RULE",
                default="auto",
            ),
            Flag(
                "add_to",
                "dataset whose examples the new one takes over, by its ID in the workspace, or LATEST; an image "
                "that is in both gets the new label",
                "ID",
                without="the dataset that a review table names, or none",
            ),
            Flag(
                "charset",
                "file of the symbols that labels may have, one a line; with --init_from, also of those that the new "
                "model knows",
                "FILE",
                without="every symbol that occurs; a model keeps those of the one that it starts from",
            ),
            Flag(
                "height",
                "pixels to which every line is scaled, keeping its aspect",
                default=48,
                type=whole_number(16, 512, note=" pixels"),
            ),
            Flag(
                "base_direction",
                "base direction of labels with right-to-left letters, which are typed as they are read: ltr or rtl for "
                "every line; auto takes that of the letters, and where a line has both, that of most letters of the "
                "collection; visual says that labels are typed as they are seen, from left to right",
                "DIRECTION",
                default="auto",
                choices=BASE_DIRECTIONS,
            ),
            Flag(
                "vertical",
                "text runs from top to bottom, as in columns of Chinese: every image is turned a quarter to the left",
            ),
            Flag(
                "validation_fraction",
                "share of the images on which the best epoch is chosen",
                default=0.1,
                type=number(least=0, below=1),
            ),
            Flag(
                "test_fraction",
                "share of the images held out for the evaluation; what both shares leave is for training",
                default=0.1,
                type=number(least=0, below=1),
            ),
            Flag("max_label_length", "rejects labels with more symbols", default=500, type=whole_number(1)),
            Flag(
                "empty_labels",
                "what becomes of an image whose text file or table cell is empty: it is rejected, or kept as a blank "
                "image, which is read as the empty text",
                "WHAT",
                default="reject",
                choices=("reject", "keep"),
            ),
        ),
    ),
    FlagSection(
        "Lists and rejects",
        ("ingest", "infer"),
        (
            Flag(
                "pages",
                "the images are pages, whose lines and texts ALTO or PAGE files give, or text files with boxes: each "
                "line is cut from its page",
            ),
            Flag(
                "line_types",
                "types of lines or regions in these files, comma separated: other lines are passed over",
                "NAMES",
                without="all lines",
            ),
            Flag(
                "path_column",
                "column that holds the image's path, relative to the table, in a label table or a table in "
                "--infer_images",
                "NAME",
                without="one of the usual names",
            ),
            Flag(
                "follow_links",
                "which symbolic links below the folders that are named are followed: links to files, all of them, or "
                "none; none ever leads into /proc, /sys, /dev or the workspace",
                "WHICH",
                default="all",
                choices=LINKS_FOLLOWED,
            ),
            Flag(
                "max_reject_fraction",
                "a step that rejects a greater share of its images commits nothing",
                default=0.05,
                type=FRACTION,
            ),
        ),
    ),
    FlagSection(
        "Limits on images",
        ("render", "ingest", "selftrain", "infer", "review"),
        (
            Flag(
                "max_pixels",
                "rejects images with more pixels, before decoding them",
                default=_LIMITS.max_pixels,
                type=whole_number(1, _PILLOW_LIMIT, note=", Pillow's own limit"),
            ),
            Flag("max_bytes", "rejects larger files", default=_LIMITS.max_bytes, type=whole_number(1)),
            Flag(
                "max_line_width",
                "rejects lines that are wider after scaling, in pixels",
                default=_LIMITS.max_line_width,
                type=whole_number(1),
            ),
            Flag(
                "max_decode_seconds",
                "rejects images whose decoding takes longer, in seconds of processor time",
                default=_LIMITS.max_decode_seconds,
                type=whole_number(1),
            ),
            Flag(
                "max_decode_memory",
                "rejects images whose decoding takes more memory, in bytes",
                default=_LIMITS.max_decode_memory,
                type=whole_number(50_000_000),
            ),
        ),
    ),
    FlagSection(
        "Training",
        ("train", "selftrain", "forecast"),
        (
            Flag(
                "model",
                "network to train: the ctc_conv networks take lines of any width, crnn_v1 and ocr_model_v1 are "
                f"references of fixed width; auto takes {DEFAULT_MODEL_FOR_LONG_LINES} for lines of more than "
                f"{LONG_LINE} symbols, {DEFAULT_MODEL} for shorter ones, and the network of --init_from if that is "
                "given; crnn and crnn_large are older names of ctc_conv and ctc_conv_large",
                "NAME",
                default="auto",
                choices=("auto", *RECIPES, *RENAMED_NETWORKS),
            ),
            Flag(
                "epochs",
                "passes over the training images",
                without=f"by model; {DEFAULT_MODEL} has {_RECIPE.epochs}, or more if that makes fewer than "
                f"{_RECIPE.least_steps} steps, and more for lines of many symbols",
                type=whole_number(1),
            ),
            Flag(
                "batch_size",
                "images in a training step, all workers together",
                without=f"by model; {DEFAULT_MODEL} has {_RECIPE.batch_size}",
                type=whole_number(1),
            ),
            Flag(
                "learning_rate",
                "learning rate at its peak",
                without=f"by model; {DEFAULT_MODEL} has {_RECIPE.learning_rate}",
                type=number(above=0, below=10),
            ),
            Flag(
                "patience",
                "training ends after this many epochs without a better one",
                without="a third of the epochs",
                type=whole_number(1),
            ),
            Flag(
                "init_from",
                "model whose weights training starts from, by its ID in the workspace or its folder, whose charset may "
                "differ; base for the weights that come with the program, none for random ones",
                "MODEL",
                without=f"base if there are fewer than {FEW_IMAGES} images to train on, else none",
            ),
            Flag(
                "resume",
                "whether a stopped training continues from its last checkpoint",
                "WHEN",
                default="auto",
                choices=("auto", "never"),
            ),
            Flag("train_workers", "local training processes", default=1, type=whole_number(1)),
            Flag(
                "train_restarts",
                "how often training continues from the last checkpoint after a worker was killed",
                default=2,
                type=whole_number(0),
            ),
        ),
    ),
    FlagSection(
        "Training by the accepted model",
        ("selftrain",),
        (
            Flag(
                "selftrain_images",
                "unlabelled images that may be used, drawn from all that were recognised",
                default=5000,
                type=whole_number(1),
            ),
            Flag(
                "selftrain_rounds",
                "trainings, each on more readings of the model before, the most confident first: in three rounds "
                "on a quarter, a half and three quarters",
                default=3,
                type=whole_number(1, 10),
            ),
        ),
    ),
    FlagSection(
        "Acceptance",
        ("evaluate",),
        (
            Flag(
                "max_cer",
                "refuses a model with a greater character error rate on the test split",
                default=0.2,
                type=FRACTION,
            ),
            Flag(
                "max_cer_regression",
                "how much the character error rate may exceed that of the accepted model on the same test split",
                default=0.005,
                type=FRACTION,
            ),
        ),
    ),
    FlagSection(
        "Engine",
        ("evaluate", "infer"),
        (
            Flag(
                "engine",
                "library that runs the model, onnx-int8 with a network in 8 bits; auto chooses the fastest one on each "
                "machine, which is tensorflow where it sees a GPU",
                "NAME",
                default="auto",
                choices=ENGINES,
            ),
        ),
    ),
    FlagSection(
        "Decoder",
        ("evaluate", "infer"),
        (
            Flag(
                "decoder",
                "how the network's output becomes text: the best symbol at each time step (greedy), the most probable "
                "text that a beam search finds, with the language model if the model has one, and alternatives (beam), "
                "or the most probable word of a list (lexicon); auto is beam for a model with a language model, greedy "
                "for others",
                "NAME",
                default="auto",
                choices=DECODERS,
            ),
            Flag(
                "beam_width",
                "how many beginnings of texts --decoder=beam keeps, and how many texts it gives at most (three with a "
                "language model)",
                default=10,
                type=whole_number(1),
            ),
            Flag(
                "lexicon",
                "file of the words for --decoder=lexicon, one a line; a line of two quotation marks is the empty text, "
                "for blank images",
                "FILE",
            ),
        ),
    ),
    FlagSection(
        "Recognition",
        ("infer",),
        (
            Flag(
                "infer_images",
                "images to recognise: folders, files, archives or tables that hold images (.tar, .zip, .parquet, …), "
                "globs, or tables of paths (.csv, .tsv or .jsonl), comma separated; or a split of a dataset in the "
                "workspace, as dataset:ID:test",
                "PATHS",
                without="the unlabelled part of the sample",
            ),
            Flag(
                "reread",
                "recognises every image, also those that an earlier run recognised with the same decoder",
            ),
            Flag(
                "reread_below",
                "recognises an image again if another model recognised it with less confidence than this; at 0, a "
                "new model recognises only new images",
                default=0.0,
                type=FRACTION,
            ),
        ),
    ),
    FlagSection(
        "Accepted texts",
        ("evaluate", "infer", "review"),
        (
            Flag(
                "target_error",
                "accepts texts that need no look: of these, at most this share is wrong, with 95 % confidence, judged "
                "by the held-out lines; the others are marked as needs_review",
                type=number(above=0, below=1),
            ),
        ),
    ),
    FlagSection(
        "Doubtful readings",
        ("infer", "review"),
        (
            Flag(
                "min_confidence",
                "marks predictions with less confidence as needs_review; none is left out; the review step gives out "
                "these alone, by their confidence and this flag now",
                default=0.0,
                type=FRACTION,
            ),
        ),
    ),
    FlagSection(
        "Alarms, any of which makes the exit status 4",
        ("infer",),
        (
            Flag(
                "alarm_reject_fraction", "raised when a greater share of the run's images was rejected", type=FRACTION
            ),
            Flag(
                "alarm_needs_review_fraction",
                "raised when a greater share of the predictions is below --min_confidence",
                type=FRACTION,
            ),
            Flag("alarm_images_per_s", "raised when a worker recognised fewer images a second", type=number(above=0)),
            Flag(
                "alarm_drift",
                "raised when the confidences differ from those of earlier runs of the model by a greater population "
                "stability index; 0.25 is usual",
                type=number(above=0),
            ),
            Flag(
                "alarm_confidence",
                "raised when the mean confidence is below this share of that on the held-out lines of the model's "
                "evaluation, and chance does not explain it; 0 for never",
                default=0.5,
                type=FRACTION,
            ),
            Flag("drift_nights", "how many earlier runs --alarm_drift compares with", default=7, type=whole_number(1)),
            Flag("alarm_no_new_images", "raised when no image was new"),
        ),
    ),
    FlagSection(
        "Review",
        ("review",),
        (
            Flag(
                "review",
                "what a person gets to correct: readings of new images, the least confident first, or labels of the "
                "dataset that are likely wrong; labels takes a few trainings",
                "WHAT",
                default="readings",
                choices=("readings", "labels"),
            ),
            Flag(
                "review_count",
                "how many images a person gets to correct",
                default=200,
                type=whole_number(1),
            ),
        ),
    ),
    FlagSection(
        "Compaction",
        ("compact",),
        (Flag("date", "day of the runs to merge, as YYYY-MM-DD (UTC)", "DAY", type=read_day),),
    ),
    FlagSection(
        "Export",
        ("export",),
        (
            Flag(
                "format",
                "format of the exported files: ALTO or PAGE files with the texts in them, hOCR, text files, or tables",
                "FORMAT",
                without="the export step needs it",
                choices=FORMATS,
            ),
        ),
    ),
    FlagSection(
        "Explanation",
        ("explain",),
        (
            Flag(
                "uri",
                "image to explain: its URI as the predictions have it, or a path with which the URI of no other image "
                "ends",
                "PATH",
                without="the explain step needs it",
            ),
        ),
    ),
)
