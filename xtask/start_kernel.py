"""Starts the Rust kernel in a build folder that is kept, so that the next kernel has nothing to compile.

    start_kernel.py NAME=VALUE PROGRAM ARGUMENT…

Two kernels cannot share a build folder, so each takes the first free one of VGG_KERNEL_BUILDS/0, 1, …, which is created
if needed. It stays locked until the kernel and everything it has started have ended, in whatever way. If
VGG_KERNEL_BUILDS is not set, the kernel has a temporary folder, as is evcxr's default. NAME=VALUE is set here because
macOS removes the dynamic loader's variables when programs start each other.
"""

import fcntl
import itertools
import os
import pathlib
import sys


def take_free(builds):
    for number in itertools.count():
        folder = builds / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(builds / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.set_inheritable(lock, True)
        return folder


setting, program = sys.argv[1:3]
name, value = setting.split("=", 1)
os.environ[name] = value
builds = os.environ.get("VGG_KERNEL_BUILDS")
if builds and "EVCXR_TMPDIR" not in os.environ:
    os.environ["EVCXR_TMPDIR"] = str(take_free(pathlib.Path(builds)))
os.execv(program, sys.argv[2:])
