"""Prints what this interpreter says of the lines of code objects, for a decoder of its tables to be held against.

`lines.py MOST FILE...`, or without files the standard library. For each code object one line: its name, first line, bytes of
bytecode, table in hexadecimal, and `offset:line` for each run of instructions of one line (`-` for none).
"""

import dis
import glob
import os
import sys
import types


def runs_of(code):
    if hasattr(code, "co_lines"):
        return [(start, line) for start, end, line in code.co_lines() if end > start]
    return list(dis.findlinestarts(code))


def tell(code):
    table = code.co_linetable if hasattr(code, "co_lines") else code.co_lnotab
    runs = ",".join("%d:%s" % (start, "-" if line is None else line) for start, line in runs_of(code))
    print(code.co_name.replace(" ", "_"), code.co_firstlineno, len(code.co_code), table.hex() or "-", runs or "-")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            tell(constant)


def files():
    if len(sys.argv) > 2:
        return sys.argv[2:]
    library = os.path.dirname(os.__file__)
    # What was installed besides is not the same everywhere.
    return sorted(name for name in glob.glob(library + "/**/*.py", recursive=True) if "-packages" not in name)


def main():
    most = int(sys.argv[1])
    chosen = files()
    # Every so many of them, so that all parts of the library have their turn.
    for name in chosen[:: max(1, len(chosen) // most)]:
        try:
            with open(name, "rb") as file:
                code = compile(file.read(), os.path.basename(name), "exec")
        except (SyntaxError, ValueError, UnicodeDecodeError):
            continue
        tell(code)


sys.stdout.reconfigure(encoding="ascii", errors="backslashreplace")
main()
