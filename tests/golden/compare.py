"""Compares a fresh set of fixtures with the committed one: python tests/golden/compare.py FOLDER.

Ends with 1 if a file is missing, another tensor is there, or a value moved by more than 1e-4 of the tensor's size.
Files of other formats have to be equal, apart from the versions named in them.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from common import ROOT

LIMIT = 1e-4


def deviation(path, other):
    """Largest difference of two tensor files, relative to the largest value of each tensor; None if unlike."""
    a, b = load_file(path), load_file(other)
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape or a[k].dtype != b[k].dtype for k in a):
        return None
    worst = 0.0
    for key, value in a.items():
        size = value.double().abs().max().clamp(min=1e-12)
        worst = max(worst, float((value.double() - b[key].double()).abs().max() / size))
    return worst


def main():
    fresh = Path(sys.argv[1])
    failed = False
    for path in sorted(p for p in fresh.rglob("*") if p.is_file()):
        name = path.relative_to(fresh)
        committed = ROOT / "tests" / "fixtures" / name
        if not committed.exists():
            print(f"{name}: not committed")
            failed = True
        elif path.suffix == ".safetensors":
            worst = deviation(committed, path)
            bad = worst is None or worst > LIMIT
            failed |= bad
            if worst != 0.0:
                print(f"{name}: {'other tensors' if worst is None else f'{worst:.1e}'}{' <- too far' if bad else ''}")
        elif path.read_bytes() != committed.read_bytes():
            print(f"{name}: other text")
    sys.exit(failed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
