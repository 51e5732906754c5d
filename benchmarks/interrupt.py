#!/usr/bin/env python3
"""How soon each command answers Ctrl-C, and how soon it ends: once, and where a second one follows.

    python3 benchmarks/interrupt.py DIR [--rounds 5] [--model synthetic:facebook/opt-6.7b@0.125]

DIR, on the disk that is meant, gets a model and is left with it; SLLM_GDS names another program. Each command is started anew,
told to stop at moments spread evenly over its work, and timed: from the signal to the first words on it, to the end of the
process, and to that end where the signal comes again 0.3 s later. One that ended before its signal is not counted.
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

PROGRAM = os.environ.get("SLLM_GDS", "target/release/sllm-gds")
ANSWER = "interrupted"
AGAIN_AFTER_S = 0.3


class Run:
    """A command, with the moment at which each of its lines came."""

    def __init__(self, command):
        self.lines = []
        self.process = subprocess.Popen([PROGRAM, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append((time.monotonic(), line))

    def wait(self):
        code = self.process.wait()
        ended = time.monotonic()
        self.reader.join()
        return code, ended


def interrupted(command, after_s, again):
    """Seconds to the answer, to the end, from the second signal to the end (None with one), and the exit code."""
    run = Run(command)
    time.sleep(after_s)
    sent = time.monotonic()
    if run.process.poll() is not None:
        run.wait()
        return None
    run.process.send_signal(signal.SIGINT)
    second = None
    if again:
        time.sleep(AGAIN_AFTER_S)
        if run.process.poll() is None:
            second = time.monotonic()
            run.process.send_signal(signal.SIGINT)
    code, ended = run.wait()
    answers = [at - sent for at, line in run.lines if ANSWER in line and at >= sent]
    return answers[0] if answers else None, ended - sent, second and ended - second, code


def in_words(values):
    values = sorted(value for value in values if value is not None)
    if not values:
        return "-"
    return f"{values[len(values) // 2]:.3f} ({values[-1]:.3f})"


def evict(folder):
    for path in folder.rglob("tensor.data_*"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(name, command, before, whole_s, rounds):
    once, twice, codes = [], [], set()
    for again, found in ((False, once), (True, twice)):
        for number in range(rounds):
            before()
            figures = interrupted(command, whole_s * (number + 0.5) / rounds, again)
            if figures:
                found.append(figures)
                codes.add(figures[3])
    answer = in_words([figures[0] for figures in once + twice])
    end = in_words([figures[1] for figures in once])
    second = in_words([figures[2] for figures in twice])
    codes = ", ".join(str(code) for code in sorted(codes))
    print(f"| {name} | {len(once)} | {answer} | {end} | {second} | {codes} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="synthetic:facebook/opt-6.7b@0.125")
    args = parser.parse_args()
    kept, scratch = args.dir / "kept", args.dir / "scratch"
    storage = ["--storage-path", str(kept)]

    def clear():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        os.sync()

    def cold():
        clear()
        evict(kept)

    def whole_s(command, before):
        before()
        started = time.monotonic()
        subprocess.run([PROGRAM, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - started

    name = "kept"
    subprocess.run([PROGRAM, "save", "--model", args.model, *storage, "--name", name], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bench = ["bench", "--model", args.model, "--formats", "sllm", "--results", str(scratch / "results"), "--storage-path"]
    save = ["save", "--model", args.model, "--storage-path", str(scratch), "--name", "new"]
    load = ["load", name, *storage]
    cases = [
        ("save", save, clear, whole_s(save, clear)),
        ("load, cold", load, cold, whole_s(load, cold)),
        ("load --verify, cold", [*load, "--verify"], cold, whole_s([*load, "--verify"], cold)),
        # Four replicas take a few times as long as one save: all signals come while they are written.
        ("bench, replicas being written", [*bench, str(scratch), "--mode", "random", "--replicas", "4"], clear,
         3 * whole_s(save, clear)),
        ("bench, cold loads", [*bench, str(args.dir / "bench"), "--mode", "cached", "--cold", "--replicas", "50"], clear, 8.0),
        ("qualify", ["qualify", "--path", str(scratch), "--results", str(scratch / "results"), "--size", "200MB", "--duration",
                     "20s"], clear, 12.0),
    ]
    # Its checkpoint is there when the first of its cases begins.
    subprocess.run([PROGRAM, *bench, str(args.dir / "bench"), "--mode", "cached", "--replicas", "1"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("| command | signals | to the answer, s | to the end, s | second signal to the end, s | exit codes |")
    print("| --- | ---: | ---: | ---: | ---: | --- |", flush=True)
    for case in cases:
        measure(*case, args.rounds)
    print("\nMedian and, in brackets, the longest.")
    clear()


if __name__ == "__main__":
    main()
