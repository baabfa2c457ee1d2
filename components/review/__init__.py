"""The review of doubtful predictions by a person."""
