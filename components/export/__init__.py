"""The export of readings into the files of other systems."""

FORMATS = ("alto", "page", "hocr", "txt", "csv", "jsonl")
