"""Compare the time of `import vlmkit` with the import of the transformers classes that it builds on.

    python benchmarks/import_time.py --runs 5

Both imports run in turn in new interpreters. The script prints their median seconds and the ratio.
"""

import argparse
import statistics
import subprocess
import sys

TRANSFORMERS = "from transformers import PreTrainedModel, AutoModel, AutoConfig, ProcessorMixin"
VLMKIT = "import vlmkit"


def seconds(statement: str) -> float:
    """Return the seconds that a new interpreter needs for a statement, without the start of the interpreter."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Time both imports in turn, so that other load on the machine affects both equally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="Number of timed runs per import, after one warm-up run.")
    runs = parser.parse_args().runs

    times = [(seconds(TRANSFORMERS), seconds(VLMKIT)) for _ in range(runs + 1)][1:]
    transformers, vlmkit = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{transformers:.2f} s  {TRANSFORMERS}")
    print(f"{vlmkit:.2f} s  {VLMKIT}")
    print(f"ratio {vlmkit / transformers:.2f}")


if __name__ == "__main__":
    main()
