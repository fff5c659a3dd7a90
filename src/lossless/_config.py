"""Which path computes what on this machine, and with how many threads."""

import sys

from lossless import _kernels
from lossless._diagnose import watch


def config() -> dict[str, str]:
    """Versions and paths, by name; of frameworks only those installed, and none is imported for it."""
    import platform  # slow to import, and only needed here
    from importlib.metadata import distributions

    versions = {d.name: d.version for d in distributions() if d.name in ("lossless", "numpy", "torch")}
    native = _kernels.native
    return {
        "python": platform.python_version(),
        **dict(sorted(versions.items())),
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu path": f"reference ({_kernels.why})" if native is None else f"compiled kernels, {native.isa()}",
        "cpu reference": "soft focal, losses of probabilities, logit, most divergences; torch.func",
        "other devices": "reference",
        "available": ", ".join(["reference", *([] if native is None else native.available_isas())]),
        "threads": str(get_num_threads()),
        "checks": watch.level,
    }


def show_config() -> None:
    """Print versions, the chosen instruction set and what computes on each device."""
    print("\n".join(f"{name:14} {value}" for name, value in config().items()))


def set_num_threads(n: int) -> None:
    """Let the compiled kernels use `n` threads from now on; the reference path leaves threads to its framework."""
    if n < 1:
        raise ValueError(f"set_num_threads: n got {n}, expected at least 1")
    if _kernels.native is not None:
        _kernels.native.set_num_threads(n)


def get_num_threads() -> int:
    """How many threads the compiled kernels may use; 1 where there are none."""
    return 1 if _kernels.native is None else int(_kernels.native.get_num_threads())
