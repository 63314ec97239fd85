"""Makes every committed fixture of the tests: python tests/golden/make.py [--only NAME] [--list]."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import ROOT  # noqa: E402  (sets the thread count before torch is imported)
import embeddings  # noqa: E402
import goldens  # noqa: E402
import parts  # noqa: E402
import prompts  # noqa: E402
import samplers  # noqa: E402
import singlefile  # noqa: E402
from build import write_family  # noqa: E402
from families import FAMILIES  # noqa: E402
from noise import write as write_noise  # noqa: E402


def family_task(family):
    """Writes a tiny model and its goldens."""

    def task(_args):
        write_family(family)
        goldens.write(family)

    return task


def tasks():
    """Name to function, in the order of a full run."""
    table = {name: family_task(family) for name, family in FAMILIES.items() if name in goldens.PICTURES}
    table["emoji-sd"] = lambda args: goldens.bundled(args.bundled)
    table["parts"] = lambda _args: parts.write()
    table["samplers"] = lambda _args: samplers.write()
    table["prompts"] = lambda _args: prompts.write()
    table["clip"] = lambda _args: prompts.write_vocabulary()
    table["singlefile"] = lambda _args: singlefile.write()
    table["embeddings"] = lambda _args: embeddings.write()
    table["noise"] = lambda _args: write_noise()
    return table


def main():
    table = tasks()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(table), help="make this one; may be repeated")
    parser.add_argument("--bundled", type=Path, default=ROOT / "models" / "emoji-sd", help="the bundled model's folder")
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    args = parser.parse_args()
    if args.list:
        print("\n".join(table))
        return
    for name in args.only or table:
        start = time.time()
        table[name](args)
        print(f"{name}: {time.time() - start:.1f} s")


if __name__ == "__main__":
    main()
