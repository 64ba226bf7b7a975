"""What `import vlmkit` costs beyond the transformers classes that it builds on.

    python benchmarks/import_time.py --runs 5

Prints the median seconds of both in fresh interpreters, run in turns, and their ratio.
"""

import argparse
import statistics
import subprocess
import sys

TRANSFORMERS = "from transformers import PreTrainedModel, AutoModel, AutoConfig, ProcessorMixin"
VLMKIT = "import vlmkit"


def seconds(statement: str) -> float:
    """Time that a fresh interpreter takes for the statement alone, without its own start."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Alternate, so that whatever else the machine does hits both alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each statement, after one that warms the disk up")
    runs = parser.parse_args().runs

    times = [(seconds(TRANSFORMERS), seconds(VLMKIT)) for _ in range(runs + 1)][1:]
    transformers, vlmkit = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{transformers:.2f} s  {TRANSFORMERS}")
    print(f"{vlmkit:.2f} s  {VLMKIT}")
    print(f"ratio {vlmkit / transformers:.2f}")


if __name__ == "__main__":
    main()
