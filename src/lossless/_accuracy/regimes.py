"""Named inputs, seeded, for the regimes in which loss functions lose accuracy.

Every array is made in the format it is used in (float16, bfloat16, float32, float64), so that the oracle and the code
under test see the same numbers. A regime is named, not numbered: `logits("gap-20", "float32")` is the same batch in
every test and on every machine.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np

DTYPES = ("float32", "float64", "float16", "bfloat16")
NUMPY = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

# Gaps between the logit of the label and the others. float32 loses the loss at 16.6, float64 at 36.7, bfloat16 at 6 in
# libraries that form 1 + T; the last ones of a row leave the loss itself denormal, then below every denormal.
GAPS = {
    "float32": (5, 10, 15, 17, 20, 30, 40, 80, 95, 120),
    "float64": (5, 10, 15, 17, 20, 30, 37, 40, 80, 300, 700, 720, 800),
    "float16": (3, 5, 7, 10, 14, 17, 20, 80),
    "bfloat16": (3, 5, 7, 10, 20, 40, 80, 95, 120),
}
OFFSETS = {
    "float32": ("1e4", "1e8"),
    "float64": ("1e4", "1e8", "1e16"),
    "float16": ("1e4",),
    "bfloat16": ("1e4", "1e8"),
}

# 15, 16, 17 and 31, 32, 33 are a vector of 16 lanes and two, one less and one more; 127, 128, 129 are the same for a
# block of 128. 1, 2 and 10 are what people use.
SIZES = (1, 2, 3, 10, 15, 16, 17, 31, 32, 33, 127, 128, 129, 1000)
LONG = ("long-131072", "long-50257")  # the vocabularies of Llama 3 (nearly) and GPT-2
ENORMOUS = "long-1000000"


@dataclasses.dataclass(frozen=True)
class Logits:
    """Logits (N, C) and one label a row."""

    x: np.ndarray
    y: np.ndarray

    @property
    def dtype(self) -> str:
        return str(self.x.dtype)


SEED = 0  # another one draws other numbers for every regime, as the slow tests do


def rng(*name: str) -> np.random.Generator:
    """A generator seeded by a name: a new regime moves no other regime's numbers."""
    return np.random.default_rng([SEED, zlib.crc32("/".join(name).encode())])


def rounded(values: np.ndarray | float, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # offsets of 1e8 are meant for formats that hold them; -inf stays -inf
        return np.asarray(values, np.float64).astype(NUMPY[dtype])


def logit_regimes(dtype: str) -> Iterator[str]:
    """Every regime of logits that the format can hold, but for the long rows."""
    yield from (f"typical-{classes}" for classes in (2, 3, 10, 100, 1000))
    yield "wide-100"
    yield from (f"gap-{gap}" for gap in GAPS[dtype])
    yield from ("gap-2-classes", "gap-1000-classes", "wrong-40", "mixed")
    yield from (f"offset-{offset}" for offset in OFFSETS[dtype])
    yield from ("masked-half", "masked-but-one", "equal-2", "equal-10", "equal-1000", "near-uniform-1e-3")
    if dtype in ("float32", "float64"):
        yield from ("near-uniform-1e-5", "normalised")
    yield from (f"size-{classes}" for classes in SIZES)


def logits(name: str, dtype: str) -> Logits:
    """The batch of a regime: four rows, so that two spatial positions fit as well (one or two in the long regime)."""
    draw = rng("logits", name, dtype)
    kind, _, parameter = name.partition("-")
    gap = 20.0 if dtype in ("float32", "float64") else 7.0
    rows = 4
    if kind == "typical":
        x = draw.normal(size=(rows, int(parameter)))
        y = draw.integers(int(parameter), size=rows)
    elif kind == "wide":  # spread so far that most classes underflow
        x = draw.normal(scale=25, size=(rows, int(parameter)))
        y = draw.integers(int(parameter), size=rows)
    elif kind == "gap":
        classes = {"2-classes": 2, "1000-classes": 1000}.get(parameter, 10)
        x, y = _led(draw, rows, classes, gap if parameter.endswith("classes") else float(parameter))
    elif kind == "wrong":  # another class leads, by 40
        x, leader = _led(draw, rows, 10, float(parameter))
        y = (leader + 1 + draw.integers(9, size=rows)) % 10
    elif kind == "mixed":  # runner-up close, the rest far below: sums that need every scale at once
        x, y = _led(draw, rows, 17, gap)
        x[:, 3:9] -= gap
        x[np.arange(rows), (y + 1) % 17] = x[np.arange(rows), y] - 1
    elif kind == "offset":
        # Steps of one unit of the format at the offset, and at least 1: at 1e8 float32 knows multiples of 8 only.
        offset = float(parameter)
        step = max(1.0, float(np.spacing(rounded(np.array(offset), dtype))))
        x = np.array(offset + step * draw.integers(-3, 4, size=(rows, 10)), np.float64)
        y = draw.integers(10, size=rows)
        x[0, y[0]] = x[0].max() + step * np.ceil(gap / step)  # one confident row
        x[2] = -x[2]
    elif kind == "masked":
        classes = 32
        x, y = _led(draw, rows, classes, 3.0)
        for r in range(rows):
            others = draw.permutation([j for j in range(classes) if j != y[r]])
            x[r, others[: classes - 1 if parameter == "but-one" else classes // 2]] = -np.inf
        x[1, y[1]] = 0.5 * gap
    elif kind == "equal":
        x = np.repeat(np.array([[0.0], [1.5], [-40.0], [1000.0]]), int(parameter), axis=1)
        y = draw.integers(int(parameter), size=rows)
    elif kind == "near":  # near-uniform-<size of the differences>
        x = draw.normal(scale=float(parameter.removeprefix("uniform-")), size=(rows, 100))
        y = draw.integers(100, size=rows)
    elif kind == "normalised":  # log-probabilities: lse is 0 but for rounding
        x = draw.normal(scale=2, size=(rows, 50))
        x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
        y = draw.integers(50, size=rows)
    elif kind == "size":  # one row of each temper: typical, confident, confidently wrong, tail far below
        classes = int(parameter)
        x, y = draw.normal(size=(rows, classes)), draw.integers(classes, size=rows)
        x[1, y[1]] += gap
        x[2, (y[2] + 1) % classes] += gap
        x[3, y[3]] += 3 * gap
    elif kind == "long":
        classes = int(parameter)
        rows = 2 if dtype in ("float32", "float64") and name != ENORMOUS else 1
        x, y = draw.normal(size=(rows, classes)), draw.integers(classes, size=rows)
        x[0, y[0]] += np.log(classes) + gap
    else:
        raise KeyError(name)
    return Logits(rounded(x, dtype), y.astype(np.int64))


def _led(draw: np.random.Generator, rows: int, classes: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows around 0 in which one class, the label, leads the largest of the others by `gap`."""
    x = draw.normal(scale=0.5, size=(rows, classes))
    y = draw.integers(classes, size=rows)
    x[np.arange(rows), y] = -np.inf
    x[np.arange(rows), y] = x.max(axis=1) + gap
    return x, y


# ---- targets and weights -------------------------------------------------------------------------------------------

SOFT_TARGETS = ("one-hot", "smoothed", "random", "optimum", "sparse", "tail-1e-9", "tail-1e-12")


def soft_target_kinds(dtype: str) -> tuple[str, ...]:
    """float16 has no number between 0 and 6e-8."""
    return tuple(kind for kind in SOFT_TARGETS if dtype != "float16" or not kind.startswith("tail"))


def onehot(batch: Logits) -> np.ndarray:
    """The labels as rows (N, C) of zeros and a one."""
    t = np.zeros(batch.x.shape)
    t[np.arange(len(t)), batch.y] = 1
    return rounded(t, batch.dtype)


def soft_targets(kind: str, batch: Logits) -> np.ndarray:
    """Probabilities (N, C) for a batch: its labels one-hot, smoothed, with a small tail; random; or its own softmax."""
    rows, classes = batch.x.shape
    draw = rng("targets", kind, batch.dtype, str(classes))
    sure = onehot(batch).astype(np.float64)
    if kind == "one-hot":
        t = sure
    elif kind == "smoothed":
        t = 0.9 * sure + 0.1 / classes
    elif kind == "random":
        t = draw.dirichlet(np.ones(classes), size=rows)
    elif kind == "sparse":  # half of the classes have no part in the target
        t = draw.dirichlet(np.ones(classes), size=rows) * (draw.random((rows, classes)) < 0.5) + 0.1 * sure
    elif kind == "optimum":  # the target is what the model says, to rounding: the gradient crosses zero
        x = batch.x.astype(np.float64)
        t = np.exp(x - x.max(axis=1, keepdims=True))
        t /= t.sum(axis=1, keepdims=True)
    else:
        tail = float(kind.removeprefix("tail-"))
        t = draw.dirichlet(np.ones(max(classes - 1, 1)), size=rows) * tail
        t = np.stack([np.insert(row[: classes - 1], label, 1 - tail) for row, label in zip(t, batch.y, strict=True)])
    return rounded(t, batch.dtype)


def class_weights(spread: str, classes: int, dtype: str) -> np.ndarray:
    """Weights log-uniform over `spread`, both ends taken (with two classes or more)."""
    half = np.log10(float(spread)) / 2
    exponents = rng("weights", spread, str(classes)).uniform(-half, half, size=classes)
    exponents[0], exponents[-1] = -half, half
    return rounded(10.0**exponents, dtype)


def sample_weights(name: str, rows: int, dtype: str) -> np.ndarray:
    """A weight for each row, log-uniform over 1e3."""
    return rounded(10.0 ** rng("samples", name, dtype).uniform(-1.5, 1.5, size=rows), dtype)


# ---- pointwise -----------------------------------------------------------------------------------------------------

BINARY = ("small", "right-1", "right-0", "wrong-1", "wrong-0", "rare", "half", "any", "beyond")


SCORES = ("small", "right-1", "right-0", "any", "denormal")  # for functions of the logits alone


def binary_logits(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of `binary_cross_entropy_with_logits`, (64,) each."""
    draw = rng("binary", name, dtype)
    near, far = draw.uniform(-5, 5, size=64), draw.uniform(10, 80, size=64)
    coin = draw.integers(0, 2, size=64).astype(np.float64)
    x, t = {
        "small": (near, coin),
        "right-1": (far, np.ones(64)),
        "right-0": (-far, np.zeros(64)),
        "wrong-1": (-far, np.ones(64)),
        "wrong-0": (far, np.zeros(64)),
        "rare": (np.where(coin == 1, near, -0.4 * far), np.full(64, 1e-6)),
        "half": (np.where(coin == 1, near, far), np.full(64, 0.5)),
        "any": (3 * near, draw.random(64)),
        "beyond": (np.where(coin == 1, 1, -1) * draw.uniform(80, 130, size=64), coin),  # denormals, then nothing
        "denormal": (np.where(coin == 1, 1, -1) * draw.uniform(*LAST_EXPONENTS[dtype], size=64), coin),
    }[name]
    return rounded(x, dtype), rounded(t, dtype)


# exp(-x) is the format's last normal number, then a denormal, then nothing.
LAST_EXPONENTS = {"float32": (85, 107), "float64": (705, 750), "float16": (8, 19), "bfloat16": (85, 96)}

UNIT_INTERVAL = ("ordinary", "soft", "close", "certain", "tiny", "near-one")


def binary_probabilities(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets of `binary_cross_entropy`, (64,) each."""
    draw = rng("unit-interval", name, dtype)
    ulp = float(2 * np.spacing(rounded(np.array(0.5), dtype)))  # that of 1
    p, t = draw.uniform(0.02, 0.98, size=64), draw.random(64)
    coin, steps = draw.integers(0, 2, size=64).astype(np.float64), draw.integers(1, 9, size=64)
    least = {"float16": -7, "float64": -200}.get(dtype, -37)  # beyond the clamps of PyTorch, 1e-12 and exp(-100)
    p, t = {
        "ordinary": (p, coin),
        "soft": (p, t),
        "close": (rounded(np.where(coin == 1, 0.5, p), dtype) + ulp * steps / 4, np.where(coin == 1, 0.5, p)),
        "certain": (coin, np.array([0.0, 0.5, 1.0, 0.25] * 16)),
        "tiny": (10.0 ** draw.uniform(least, -3, size=64), np.array([1.0, 0.0, 1.0, 0.25] * 16)),
        "near-one": (1 - ulp * steps / 2, np.array([1.0, 0.0, 1.0, 0.75] * 16)),
    }[name]
    return rounded(p, dtype), rounded(t, dtype)


REGRESSION = {
    "float32": ("typical", "close", "equal", "one-large", "one-tiny", "tiny", "1e20", "1e-25"),
    "float64": ("typical", "close", "equal", "one-large", "one-tiny", "tiny", "1e20", "1e-25", "1e200", "1e-200"),
    "float16": ("typical", "close", "equal", "one-large", "one-tiny", "tiny"),
    "bfloat16": ("typical", "close", "equal", "one-large", "one-tiny", "tiny", "1e20", "1e-25"),
}


def regression(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets, (48,) each."""
    draw = rng("regression", name, dtype)
    x, t = draw.normal(size=48), draw.normal(size=48)
    if name == "close":  # neighbours in the format
        x = t * (1 + 2.0 ** -draw.integers(4, 10, size=48))
    elif name == "equal":
        x = t
    elif name == "one-large":  # its square overflows float16 and is exact enough elsewhere
        x[5], t[5] = 3e2, 0.0
    elif name == "one-tiny":
        x, t = np.zeros(48), np.zeros(48)
        x[7] = 2.0**-14 if dtype == "float16" else 1e-30
    elif name == "tiny":
        x, t = 1e-4 * x, 1e-4 * t
    elif name[0] == "1":  # one difference of 1e20 or 1e-25, whose square leaves float32
        x = t.copy()
        x[11], t[11] = float(name), 0.0
    return rounded(x, dtype), rounded(t, dtype)


# ---- distributions -------------------------------------------------------------------------------------------------

PROBABILITIES = ("typical", "near-one-hot", "near-uniform", "sparse", "uniform", "coin")


def probabilities(name: str, dtype: str) -> np.ndarray:
    """Rows of probabilities (4, C), normalised to rounding."""
    draw = rng("probabilities", name, dtype)
    if name == "coin":
        return rounded(np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [2.0**-10, 1 - 2.0**-10]]), dtype)
    if name == "uniform":
        return rounded(np.full((4, 8), 0.125), dtype)
    p = draw.dirichlet(np.ones(20), size=4)
    if name == "near-one-hot":
        p = 1e-3 * p
        p[np.arange(4), [3, 0, 19, 7]] = 1 - 1e-3
    elif name == "near-uniform":
        p = 0.05 * (1 + 1e-3 * draw.normal(size=(4, 20)))
    elif name == "sparse":
        p[:, ::2] = 0
    return rounded(p, dtype)


PAIRS = {
    "float32": ("typical", "1e-1", "1e-2", "1e-3", "1e-4", "near-one-hot", "sparse", "gap-20", "gap-80"),
    "float64": ("typical", "1e-1", "1e-2", "1e-4", "1e-8", "near-one-hot", "sparse", "gap-20", "gap-80"),
    "float16": ("typical", "1e-1", "1e-2", "near-one-hot", "sparse", "gap-7"),
    "bfloat16": ("typical", "1e-1", "near-one-hot", "sparse", "gap-20", "gap-80"),
}


def pair(name: str, kind: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Two distributions a row, (4, 20) each, as "logits", "log_probs" or "probs". q is nowhere 0."""
    draw = rng("pair", name, dtype)
    a, b = draw.normal(size=(4, 20)), draw.normal(size=(4, 20))
    rows, leaders = np.arange(4), np.array([3, 0, 19, 7])
    if name[0] == "1":  # q is p, moved by this much
        b = a + float(name) * b
    elif name == "near-one-hot":
        a[rows, leaders], b[rows, leaders] = 9, 8
    elif name == "sparse":
        a[:, ::2] = -np.inf
    elif name.startswith("gap"):  # both sure, of the same class and then of another
        a[rows, leaders] += float(name[4:])
        b[rows, leaders[[0, 1, 3, 2]]] += float(name[4:])
    if kind != "logits":
        a, b = map(_log_softmax, (a, b))
    if kind == "probs":
        a, b = np.exp(a), np.exp(b)
    return rounded(a, dtype), rounded(b, dtype)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    """With the tail that a sure row has: its largest number is just below 0."""
    x = x - x.max(axis=1, keepdims=True)
    others: np.ndarray = np.sum(np.exp(x), axis=1, keepdims=True, where=x < 0)
    return np.asarray(x - np.log1p(others))


def log_ratios(dtype: str) -> tuple[str, ...]:
    """float16 has no number between 0 and 6e-8."""
    return ("1e-4", "neighbours", "1", "50") if dtype == "float16" else ("1e-10", "1e-4", "neighbours", "1", "50")


def log_probabilities(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of what was drawn, (64,) each, whose differences are of both signs and about this large."""
    draw = rng("log-ratios", name, dtype)
    p = -np.abs(draw.normal(scale=3, size=64))
    if name == "neighbours":  # a few steps of the format apart
        p = rounded(p, dtype)
        return p, p + np.spacing(np.abs(p)) * draw.integers(-4, 5, size=64).astype(p.dtype)
    size = float(name) * draw.uniform(0.1, 1, size=64)
    p = -size * draw.uniform(1, 3, size=64)
    return rounded(p, dtype), rounded(p + size * draw.choice([-1.0, 1.0], size=64), dtype)
