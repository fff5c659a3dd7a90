"""Time and memory of `lossless evaluate`, as ratios: `python benchmarks/evaluate.py [--rows 2000000] [--rounds 3]`.

Rows of 100 float32 logits in Parquet. The floor is what any evaluation must do: read the file with pyarrow, and pass
once over the scores with our kernels (`row_statistics`), on as many threads. In memory, scikit-learn's `log_loss`,
`accuracy_score` and `calibration_curve` are given the probabilities ready-made. A figure is the median of rounds that
are interleaved; memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lossless

CLASSES, GROUP, THREADS = 100, 20_000, 2


def rows_of(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is right in about nine rows of ten, and labels."""
    label = rng.integers(0, CLASSES, rows)
    logits = 2 * rng.standard_normal((rows, CLASSES), np.float32)
    logits[np.arange(rows), label] += 8
    return logits, label


def write(path: Path, rows: int) -> None:
    """A file of so many rows, a row group at a time."""
    rng = np.random.default_rng(0)
    writer = None
    for _ in range(0, rows, GROUP):
        logits, label = rows_of(rng, GROUP)
        scores = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), CLASSES)
        table = pa.table({"logits": scores, "label": pa.array(label)})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def floor(path: Path) -> float:
    """The sum of all losses, by reading and one pass."""

    def part(group: int) -> float:
        total = 0.0
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as opened:
            for batch in opened.iter_batches(GROUP // 2, row_groups=[group], use_threads=False):
                x = batch.column("logits").flatten().to_numpy().reshape(-1, CLASSES)
                total += float(lossless.row_statistics(x, batch.column("label").to_numpy()).nll.sum(dtype=np.float64))
        return total

    lossless.set_num_threads(1)
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(part, range(pq.ParquetFile(path).num_row_groups)))


def scikit_learn(logits: np.ndarray, label: np.ndarray) -> Callable[[], None]:
    """Its figures of probabilities."""
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import accuracy_score, log_loss

    p = lossless.softmax(logits)

    def run() -> None:
        guess = p.argmax(axis=1)
        log_loss(label, p)
        accuracy_score(label, guess)
        calibration_curve(guess == label, p.max(axis=1), n_bins=15)

    return run


def evaluator(logits: np.ndarray, label: np.ndarray) -> Callable[[], None]:
    """All of ours of logits."""

    def run() -> None:
        made = lossless.Evaluator()
        made.update(logits, label)
        made.result()

    return run


def measure(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of the clock and of the processors, by name."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            job()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(map(statistics.median, zip(*times, strict=True))) for name, times in found.items()}  # type: ignore[misc]


def peak(path: Path) -> float:
    """MiB that a process which evaluates a file held at most, by Linux' own account: that of `getrusage` begins with
    the memory of the process that started it."""
    code = "import re, sys, lossless; lossless.evaluate(sys.argv[1], workers=2); "
    code += "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    return int(subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True).stdout) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large.parquet"), Path(folder, "small.parquet")
        write(large, args.rows)
        write(small, args.rows // 10)
        from_file = measure(
            {
                "read and one pass": lambda: floor(large),
                "lossless.evaluate": lambda: lossless.evaluate(large, workers=THREADS),
            },
            args.rounds,
        )
        memory = {"large": peak(large), "small": peak(small)}
    lossless.set_num_threads(THREADS)
    logits, label = rows_of(np.random.default_rng(1), min(args.rows // 10, 200_000))
    in_memory = measure(
        {"scikit-learn": scikit_learn(logits, label), "lossless.Evaluator": evaluator(logits, label)}, args.rounds
    )
    (floor_wall, floor_cpu), (ours_wall, ours_cpu) = from_file.values()
    print(
        f"{args.rows} x {CLASSES} from Parquet: {ours_wall / floor_wall:.2f} times the floor by the clock "
        f"({ours_wall:.2f} s), {ours_cpu / floor_cpu:.2f} times in processor time"
    )
    print(f"peak memory: {memory['large']:.0f} MiB, and {memory['small']:.0f} MiB for a tenth of the rows")
    theirs, ours = (times[0] for times in in_memory.values())
    print(f"{len(label)} x {CLASSES} in memory: scikit-learn takes {theirs / ours:.1f} times as long ({theirs:.2f} s)")


if __name__ == "__main__":
    main()
