"""The Python examples of docs/API.md, word for word but for the address."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse

from checks import URL, check, main

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8")
PORT = urllib.parse.urlparse(URL).port


@check
def examples():
    """docs/API.md: its Python examples run"""
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    for block in blocks:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, "-c", block.replace("8600", str(PORT))], cwd=folder, text=True,
                                  capture_output=True, env=os.environ, check=False)
            assert done.returncode == 0, block + done.stdout + done.stderr


main()
