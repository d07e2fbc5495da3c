"""A C compiler for any system, which takes the words of gcc: what `zig cc` makes of them.

    CC="python tools/zig_cc.py -target aarch64-linux-gnu.2.17"

`zig cc` is a clang that brings the headers and libraries of every system along, and is installed
by `python -m pip install ziglang`. It reads some words in another way than gcc and clang do.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence


def in_zigs_words(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command for gcc or clang as zig has them."""
    for word in words:
        if word == "-O3":
            yield from ("-O3", "-Xclang", "-O3")  # alone it becomes -O2
        elif match := re.fullmatch(r"-march=x86-64-v(\d)", word):
            yield f"-mcpu=x86_64_v{match[1]}"
        elif match := re.fullmatch(r"-march=armv8\.(\d)-a\+(\w+)", word):
            yield f"-mcpu=generic+v8_{match[1]}a+{match[2]}"
        elif (
            word != "-g"
        ):  # which Python's own flags bring along; zig's libraries would have it, too
            yield word


def main() -> int:
    command = [sys.executable, "-m", "ziglang", "cc", *in_zigs_words(sys.argv[1:])]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
