"""Writes THIRD_PARTY_LICENSES.txt: the licences of every crate that is linked into the wheel, as the crates carry them.

    python3 python/licenses.py
"""

import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE")


def linked():
    """The crates that the extension is built of, but for those that only build it."""
    command = ["cargo", "tree", "--locked", "--manifest-path", HERE / "Cargo.toml", "-e", "normal,no-proc-macro", "--prefix", "none", "--target", "x86_64-unknown-linux-gnu", "-f", "{p}"]
    tree = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}


def main():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", HERE / "Cargo.toml"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["packages"]
    wanted = linked()
    crates: list[str] = []
    # Many carry the same text: each stands here once, with the crates that it is of.
    texts: dict[str, list[str]] = {}
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        name = f"{package['name']} {package['version']}"
        if (package["name"], f"v{package['version']}") not in wanted or package["source"] is None:
            continue
        crates.append(f"{name}: {package['license']}, {package['repository']}")
        folder = Path(package["manifest_path"]).parent
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name.upper().startswith(FILES):
                texts.setdefault(path.read_text(errors="replace").strip(), []).append(name)
    rule = "\n\n" + "=" * 80 + "\n\n"
    bodies = [f"Carried by {', '.join(names)}:\n\n{text}" for text, names in texts.items()]
    head = "What is linked into the extension of this package, besides sllm-gds itself:\n\n" + "\n".join(crates)
    (HERE / "THIRD_PARTY_LICENSES.txt").write_text(rule.join([head, *bodies]) + "\n")
    print(f"{len(crates)} crates, {len(texts)} texts")


if __name__ == "__main__":
    main()
