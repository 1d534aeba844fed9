#!/usr/bin/env python3
"""Makes ELF libraries (64 bits, little endian) forget the folders that they look for other libraries in: where a library
has a DT_RUNPATH, the loader does not look where the program says (DT_RPATH). Used by bundle.sh.
  forget_runpath.py FILE..."""
import os
import struct
import sys

DYNAMIC, RUNPATH, RPATH, IGNORED = 2, 29, 15, 0x6FFFFE00  # a tag that no loader knows


def forget(path):
    with open(path, "r+b") as f:
        head = f.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return 0
        at, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
        changed = 0
        for i in range(count):
            f.seek(at + i * size)
            kind, _, begin, _, _, length = struct.unpack("<IIQQQQ", f.read(40))
            if kind != DYNAMIC:
                continue
            for entry in range(begin, begin + length, 16):
                f.seek(entry)
                tag = struct.unpack("<Q", f.read(8))[0]
                if tag in (RUNPATH, RPATH):
                    f.seek(entry)
                    f.write(struct.pack("<Q", IGNORED))
                    changed += 1
                if tag == 0:
                    break
        return changed


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if not os.path.islink(name):
            os.chmod(name, os.stat(name).st_mode | 0o200)
            forget(name)
