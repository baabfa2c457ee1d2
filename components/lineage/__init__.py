"""The lineage of one image: what a workspace knows of it."""
