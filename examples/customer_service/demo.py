"""The whole line on the customer-service data: distil, convert, serve, and ask the server what customers ask."""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
NAME = "customer_service"
QUESTIONS = (
    "hi, my parcel still hasn't turned up, where is it?",
    "I was charged twice for the same jacket",
    "can I swap these shoes for a size 43?",
    "how do i get a vat invoice for my company",
    "我的快递三天没动了,到哪了?",
    "花呗可以分期吗",
    "东西收到的时候屏幕已经碎了",
    "我要找人工客服",
    "what's a good recipe for banana bread?",
)


def run(*arguments: object) -> dict[str, Any]:
    """One ``edgekd`` command as a user types it; its ``--json`` report."""
    command = ["edgekd", *map(str, arguments)]
    print("$", " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *command[1:], "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def ask(connection: http.client.HTTPConnection, text: str) -> dict[str, Any]:
    """One sentence to the server's ``:classify``."""
    connection.request("POST", f"/v1/models/{NAME}:classify", json.dumps({"text": text}))
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


def serve_and_ask(bundle: Path, console: Console) -> float:
    """Start the device runtime, print its answers to the questions; the median time of an answer over HTTP, in ms."""
    command = [sys.executable, "-m", "edgekd_runtime", "serve", str(bundle), "--port", "0"]
    print("$ edgekd-runtime serve", bundle, flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            if "http://" not in ready:
                sys.exit("the server did not start")
            console.print(ready.strip(), highlight=False)
            connection = http.client.HTTPConnection(
                "127.0.0.1", int(ready.split("http://")[1].split()[0].split(":")[1])
            )
            for question in QUESTIONS:
                print_answer(console, question, ask(connection, question))
            return median_ms(connection)
        finally:
            server.terminate()


def print_answer(console: Console, question: str, answer: dict[str, Any]) -> None:
    language = "zh" if any("\u4e00" <= letter <= "\u9fff" for letter in question) else "en"
    console.print(f"\n[bold]{question}[/bold]")
    if answer["in_scope"]:
        console.print(
            f"  [green]{answer['label']}[/green] {answer['score']:.2f}  {answer['answers'][language]}",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(f"  [yellow]out of scope[/yellow] {answer['score']:.2f}  → a person takes over", highlight=False)


def median_ms(connection: http.client.HTTPConnection) -> float:
    taken = []
    for i in range(300):
        start = time.perf_counter()
        ask(connection, QUESTIONS[i % len(QUESTIONS)])
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2] * 1e3


def print_table(console: Console, student: dict[str, Any], bundle: dict[str, Any], http_ms: float) -> None:
    teacher, accuracy = student["teacher"], bundle["accuracy"]
    rows = [
        (
            "teacher " + teacher["name"],
            student["accuracy"]["teacher_eval"],
            teacher["weights_bytes"],
            teacher["answer_ms"],
        ),
        ("student, float", accuracy["float"], bundle["bytes"]["float"], bundle["invoke_us"]["float"] / 1e3),
        ("student, int8", accuracy["int8"], bundle["bytes"]["int8"], bundle["invoke_us"]["int8"] / 1e3),
        ("served: text in, answer out", accuracy["int8"], bundle["bytes"]["int8"], http_ms),
    ]
    table = Table(title="\nHeld-out sentences, English and Chinese; times on this machine", title_justify="left")
    for heading in ("", "accuracy", "size", "latency per answer"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, fraction, size, ms in rows:
        table.add_row(name, f"{100 * fraction:.1f} %", f"{size / 1e6:.2f} MB", f"{ms:.3f} ms")
    console.print(table)
    scope = bundle["out_of_scope"]
    console.print(
        f"Out of scope: {100 * scope['out_of_scope_rejected']:.0f} % of foreign sentences are refused "
        f"while {100 * scope['in_scope_accepted']:.0f} % of the held-out customers' are accepted."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder for the student and the bundle")
    parser.add_argument("--no-serve", action="store_true", help="stop when the bundle is written")
    options = parser.parse_args()
    output = options.output
    train, held_out = HERE / "train.csv", HERE / "eval.csv"
    student = run(
        *("distill", "--data", train, "--eval", held_out, "--teacher", "minilm+keras"),
        *("--batch", 64, "--epochs", 40, "--output", output / "student"),
    )
    bundle = run(
        *("convert", output / "student", "--samples", train, "--eval", held_out, "--max-drop", 0.02),
        *("--out-of-scope", HERE / "out_of_scope.csv", "--answers", HERE / "answers.json"),
        *("--name", NAME, "--output", output / "bundle"),
    )
    if options.no_serve:
        return
    console = Console()
    http_ms = serve_and_ask(output / "bundle" / f"{NAME}.edgekd", console)
    print_table(console, student, bundle, http_ms)


if __name__ == "__main__":
    main()
