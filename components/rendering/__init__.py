"""Rendered lines: texts drawn in many faces, as photographs and scans would show them."""
