"""Seconds of each stage of `sketchmill run` on the embedded default, into an empty store.

Run: make bench NAME=chain
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import print_figure


def run_chain(store: str) -> dict:
    """Run the chain in a process of its own and return its JSON result and wall time."""
    command = [str(Path(sys.executable).with_name("sketchmill")), "run", "--store", store]
    start = time.perf_counter()
    done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result | {"wall_sec": time.perf_counter() - start}


def main() -> None:
    with tempfile.TemporaryDirectory() as store:
        first, again = run_chain(store), run_chain(store)
    for stage, seconds in first["seconds"].items():
        print_figure(f"chain_{stage}", seconds, "s")
    print_figure("chain_total", first["wall_sec"], "s")
    print_figure("chain_again", again["wall_sec"], "s")
    print_figure("chain_test_bits_per_dim", first["bits_per_dim"], "bits/dim")


if __name__ == "__main__":
    main()
