"""The export of readings into the files of other systems."""

FORMATS = ("txt", "csv", "jsonl")
