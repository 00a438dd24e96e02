"""Compiles Python's standard library into one assembler file: a table of frozen modules.

    freeze.py LIBRARY-DIRECTORY OUTPUT.s

The code lies in .rodata and so in pages that every image with this library shares; the table holds
addresses, which the linker fills in.
"""

import marshal
import os
import sys

# Needs Tk, is the test suite, or is for building and installing.
LEFT_OUT = {"test", "tkinter", "turtledemo", "turtle", "idlelib", "lib2to3", "ensurepip", "distutils",
            "config-3.11-x86_64-linux-gnu", "__pycache__", "lib-dynload", "site-packages", "dist-packages",
            "pydoc_data", "antigravity", "this", "__phello__"}


def modules(directory, prefix=""):
    for entry in sorted(os.listdir(directory)):
        path = os.path.join(directory, entry)
        stem, extension = os.path.splitext(entry)
        if stem in LEFT_OUT:
            continue
        if os.path.exists(os.path.join(path, "__init__.py")):
            yield prefix + entry, os.path.join(path, "__init__.py"), 1
            yield from modules(path, prefix + entry + ".")
        elif extension == ".py" and stem != "__init__" and stem.isidentifier():
            yield prefix + stem, path, 0


def main(directory, output):
    found = list(modules(directory))
    with open(output, "w") as out:
        out.write('.section .rodata.standard_library,"a"\n')
        blob_path = os.path.abspath(output) + ".bin"
        with open(blob_path, "wb") as blobs:
            for number, (name, path, package) in enumerate(found):
                with open(path, "rb") as source:
                    code = compile(source.read(), f"<frozen {name}>", "exec", dont_inherit=True, optimize=0)
                data = marshal.dumps(code)
                out.write(f'n{number}: .asciz "{name}"\n')
                out.write(f'.balign 16\nc{number}: .incbin "{blob_path}", {blobs.tell()}, {len(data)}\n')
                blobs.write(data)
                found[number] += (len(data),)
        out.write('.section .data.rel.ro,"aw"\n.balign 8\n.globl standard_library\nstandard_library:\n')
        # struct _frozen: name, code, size, is_package, get_code.
        for number, (name, path, package, size) in enumerate(found):
            out.write(f".quad n{number}, c{number}\n.long {size}, {package}\n.quad 0\n")
        out.write(".quad 0, 0, 0, 0\n.section .note.GNU-stack\n")


main(*sys.argv[1:])
