"""The speed harness: every function against the installed peers, in copies of the logits, in one run on one machine."""
