"""docs/troubleshooting.md, made of the table of troubles; `make troubleshooting` writes it."""

from .troubles import Trouble, troubles

_HEAD = """\
# Troubleshooting

Symptom, cause, fix. This page is made of the table behind the warnings and `lossless.diagnose(input, target)`, which
applies all of it to a batch; `make troubleshooting` writes it anew. [misuse.md](misuse.md) says when the library looks,
at what cost, and how often it is wrong. Silence is no proof that all is well.
"""
_PARTS = {
    "error": ("Refused", "These raise, always; the message says which argument, what it was, and what was expected."),
    "warning": (
        "Warned of",
        "These have a result, and are most likely mistakes: a `MisuseWarning`, once for each line that calls, and a "
        "finding of `diagnose`.",
    ),
    "hint": ("Hinted at", "These may be intended: `diagnose` mentions them, and `LOSSLESS_CHECKS=full` warns of them."),
    "files": (
        "Found in files",
        "`lossless evaluate` finds these in saved predictions, from exact counts of all rows, and so it does what is "
        "marked “also in files” above. `--fail-on` takes the names, or a severity.",
    ),
    "answer": (
        "Answered",
        "Nothing to look for: the library is made so that these do not happen, or has an option for them.",
    ),
}
_REPOSITORIES = {
    "pytorch": "pytorch/pytorch",
    "keras": "keras-team/keras",
    "tensorflow": "tensorflow/tensorflow",
    "optax": "google-deepmind/optax",
    "mlx": "ml-explore/mlx",
    "trl": "huggingface/trl",
    "transformers": "huggingface/transformers",
    "lightning": "Lightning-AI/pytorch-lightning",
    "torchmetrics": "Lightning-AI/torchmetrics",
    "scipy": "scipy/scipy",
    "scikit-learn": "scikit-learn/scikit-learn",
    "vision": "pytorch/vision",
    "MONAI": "Project-MONAI/MONAI",
    "tabnet": "dreamquark-ai/tabnet",
    "deit": "facebookresearch/deit",
    "LD": "HikariTJU/LD",
    "e2e-model-learning": "locuslab/e2e-model-learning",
    "MobileNetV2-pytorch": "Randl/MobileNetV2-pytorch",
    "Huggingface_Toturials": "lansinuote/Huggingface_Toturials",
}


def render() -> str:
    """The page."""
    parts = [_HEAD]
    for part, (title, words) in _PARTS.items():
        rows = [t for t in troubles().values() if _part(t) == part]
        parts += [f"## {title}\n", f"{words}\n", *map(_row, rows)]
    return "\n".join(parts)


def _part(trouble: Trouble) -> str:
    return trouble.level if "calls" in trouble.found_in else "files"


def _row(trouble: Trouble) -> str:
    cause, fix = (text.format(function="the loss") for text in (trouble.cause, trouble.fix))
    lines = [
        f"### {trouble.name}\n",
        f"- **Symptom.** {trouble.symptom}",
        f"- **Cause.** {cause[0].upper()}{cause[1:]}",
        f"- **Fix.** {fix}",
    ]
    if "files" in trouble.found_in:
        lines.append("- Also in files." if "calls" in trouble.found_in else f"- A {trouble.level}.")
    if trouble.issues:
        lines.append(f"- Met in {', '.join(map(_link, trouble.issues))}.")
    return "\n".join(lines) + "\n"


def _link(issue: str) -> str:
    name, _, number = issue.partition("#")
    return f"[{issue}](https://github.com/{_REPOSITORIES[name]}/issues/{number})"


if __name__ == "__main__":
    print(render(), end="")
