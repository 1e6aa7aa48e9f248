"""SimCLR with W-search views and A2 against plain SimCLR on the digits, at equal steps.

Trains both with the command line, probes the held-out digits (every 4th row), and writes JSON
with the commit, the commands and every accuracy.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

import click

# Digits are never flipped, and all arms have the same negatives: views and strategy alone differ.
ARMS = {
    "simclr": ["--views", "digits,digits", "--strategy", "standard"],
    "a2": ["--views", "digits,digits,w-search", "--strategy", "a2"],
}
RECIPE = [
    *("--negatives", "other"),
    *("--method", "simclr", "--backbone", "conv3", "--projector", "128,64"),
    *("--optimizer", "adam", "--lr", "1e-3", "--weight-decay", "1e-5", "--schedule", "constant"),
    *("--batch-size", "256", "--holdout", "4", "--threads", "1"),
]


def viewstore(arguments: list[str]) -> dict[str, object]:
    """Run a command and return the result in its JSON."""
    command = [sys.executable, "-m", "viewstore", *arguments, "--json", "--progress", "off"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, object] = json.loads(done.stdout)["result"]
    return result


def measure(store: Path, arm: str, seed: int, steps: int, out: Path) -> dict[str, object]:
    """Train one arm with one seed and probe it."""
    run = out / f"{arm}-{seed}"
    length = ["--steps", str(steps), "--seed", str(seed), "--out", str(run)]
    viewstore(["train", str(store), *ARMS[arm], *RECIPE, *length])
    probes = {
        probe: viewstore(
            ["eval", str(run), "--source", "digits", "--holdout", "4", "--probe", probe]
        )["accuracy"]
        for probe in ("knn", "linear")
    }
    return {"arm": arm, "seed": seed, "steps": steps, **probes}


@click.command()
@click.argument("store", type=click.Path(path_type=Path, exists=True))
@click.option("--steps", default=300, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--results", type=click.Path(path_type=Path), required=True, help="JSON file.")
def main(store: Path, steps: int, seeds: int, out: Path, results: Path) -> None:
    """Train and probe both arms with each seed on the view sets of STORE."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    rows = [measure(store, arm, seed, steps, out) for seed in range(seeds) for arm in ARMS]
    facts = {
        "commit": commit.stdout.strip(),
        "machine": {"processor": platform.processor(), "python": platform.python_version()},
        "command": f"python benchmarks/digits_a2.py STORE --steps {steps} --seeds {seeds}",
        "recipe": RECIPE,
        "arms": ARMS,
        "runs": rows,
    }
    results.write_text(json.dumps(facts, indent=2) + "\n")
    for row in rows:
        click.echo(row)


if __name__ == "__main__":
    main()
