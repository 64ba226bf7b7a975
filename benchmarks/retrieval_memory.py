"""Measure time and memory of the retrieval metrics on many embeddings.

    python benchmarks/retrieval_memory.py --num_pairs 100000

For comparison, a float32 similarity matrix of 100,000 × 100,000 would need 40 GB.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from vlmkit.metrics import chance_recall, retrieval_metrics


def resident_bytes(field: str) -> int:
    """Read a memory field of this process from `/proc` (Linux): `VmRSS` is the current size, `VmHWM` its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(kilobytes)


def main() -> None:
    """Rank random pairs in both directions and print the time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_pairs", type=int, default=100_000, help="Number of image-text pairs.")
    parser.add_argument("--width", type=int, default=256, help="Width of the embeddings.")
    parser.add_argument("--chunk_size", type=int, default=128, help="Number of queries ranked at once.")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = F.normalize(torch.randn(arguments.num_pairs, arguments.width))
    texts = F.normalize(torch.randn(arguments.num_pairs, arguments.width))

    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the peak to the current size
    before = resident_bytes("VmRSS")
    start = time.perf_counter()
    metrics = retrieval_metrics(images, texts, chunk_size=arguments.chunk_size)
    seconds = time.perf_counter() - start
    extra = resident_bytes("VmHWM") - before

    size = f"{arguments.num_pairs:,} x {arguments.num_pairs:,}, width {arguments.width}"
    print(f"{size}, chunks of {arguments.chunk_size}, {torch.get_num_threads()} threads")
    print(f"{seconds:.1f} s for both directions, {extra / 1e6:.0f} MB in addition to the embeddings")
    expected = chance_recall(arguments.num_pairs, num_matches=1, k=10)
    print(f"text_to_image/recall@10 {metrics['text_to_image/recall@10']:.6f}, chance level {expected:.6f}")


if __name__ == "__main__":
    main()
