"""A page whose reader leaves before its end."""

import subprocess
import sys


def test_a_reader_who_leaves_is_no_error() -> None:
    page = "from tasks.printed import show; show('line of a page\\n' * 100_000)"
    shell = f'set -o pipefail; "{sys.executable}" -c "{page}" | head -n 1'
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "line of a page\n", "")
