"""Makes every committed fixture of the tests: python tests/golden/make.py [--only NAME] [--out FOLDER] [--list]."""

import argparse
import os
import time
from pathlib import Path


def family_task(family):
    """Writes a tiny model and its goldens."""

    def task(_args):
        import build
        import goldens

        build.write_family(family)
        goldens.write(family)

    return task


def tasks():
    """Name to function, in the order of a full run."""
    import conformance
    import edits
    import embeddings
    import families
    import goldens
    import hires
    import images
    import infotexts
    import noise
    import parts
    import prompts
    import samplers
    import singlefile
    import upscalers

    table = {name: family_task(family) for name, family in families.FAMILIES.items()}
    table["emoji-sd"] = lambda args: goldens.bundled(args.bundled)
    table["edits"] = lambda _args: edits.write()
    table["hires"] = lambda args: hires.write(args.bundled)
    table["conformance"] = lambda args: conformance.write(args.bundled)
    table["parts"] = lambda _args: parts.write()
    table["embeddings"] = lambda _args: embeddings.write()
    table["singlefile"] = lambda _args: singlefile.write()
    table["samplers"] = lambda _args: samplers.write()
    table["prompts"] = lambda _args: prompts.write()
    table["images"] = lambda _args: images.write()
    table["infotexts"] = lambda _args: infotexts.write()
    table["clip"] = lambda _args: prompts.write_vocabulary()
    table["upscalers"] = lambda _args: upscalers.write()
    table["noise"] = lambda _args: noise.write()
    return table


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="make this one; may be repeated")
    parser.add_argument("--bundled", type=Path, default=root / "models" / "emoji-sd", help="the bundled model's folder")
    parser.add_argument("--out", type=Path, help="write here in place of tests/fixtures")
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    args = parser.parse_args()
    if args.out:
        os.environ["GOLDEN_OUT"] = str(args.out.resolve())
    # After the environment is set: the modules read it while they are loaded.
    table = tasks()
    if args.list:
        print("\n".join(table))
        return
    unknown = set(args.only or ()) - set(table)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; --list lists the names")
    for name in args.only or table:
        start = time.time()
        table[name](args)
        print(f"{name}: {time.time() - start:.1f} s")


if __name__ == "__main__":
    main()
