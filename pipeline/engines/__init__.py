"""Engines: the runners of Beam jobs, and what each of them needs."""
