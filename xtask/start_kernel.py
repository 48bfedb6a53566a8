"""Starts the Rust kernel in a build folder in which the library is compiled already.

    start_kernel.py NAME=VALUE… NAME?=VALUE… PROGRAM ARGUMENT…

It sets the variables, those with `?=` only if they are not set. It does so itself because macOS removes the dynamic
loader's variables when programs start each other, and because a kernelspec's variables would win over those of the
process that starts the kernel.

Two kernels cannot share a build folder (src/kernel.rs says what is in one). So each takes the first free one of
VGG_KERNEL_BUILDS/0, 1, …, which stays locked until the kernel and everything it has started have ended, in whatever
way. A folder that is new, or older than VGG_KERNEL_BUILDS/warm, starts as a copy of that: `cargo xtask` compiles the
library there. The copy takes no time and little disk, because large files are hard links. Nothing ever writes into
those: cargo and rustc replace them. If VGG_KERNEL_BUILDS is not set, the kernel has a temporary folder, as is evcxr's
default.
"""

import fcntl
import itertools
import os
import pathlib
import re
import shutil
import sys

# Smaller files are copied: cargo rewrites some of them in place, and rustc locks others.
LINKED_BYTES = 1 << 16


def lock(path, flags):
    """An open file with this lock, or None if others hold it and `flags` says not to wait."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, flags)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def take_free(builds):
    for number in itertools.count():
        builds.mkdir(parents=True, exist_ok=True)
        held = lock(builds / f"{number}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        if held is not None:
            os.set_inheritable(held, True)
            return builds / str(number)


def built(folder):
    """When the library was compiled in this build folder; 0 if it was not."""
    libraries = folder.glob("ctx/target/*/debug/deps/libvgg_lib.*")
    return max((file.stat().st_mtime_ns for file in libraries if file.suffix in (".so", ".dylib")), default=0)


def link_or_copy(source, target):
    if os.stat(source).st_size >= LINKED_BYTES:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or one without hard links
    shutil.copy2(source, target)


def warm_up(folder, warm):
    """Makes `folder` a copy of `warm`, unless it is as new. If that is not possible, evcxr compiles the library."""
    held = lock(warm.with_suffix(".lock"), fcntl.LOCK_SH)
    try:
        if built(warm) > built(folder):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(warm, folder, copy_function=link_or_copy, symlinks=True, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        print(f"the build of {warm} cannot be used: {error}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)


def main(arguments):
    for count, argument in enumerate(arguments):
        setting = re.match(r"(\w+)(\??)=(.*)", argument, re.DOTALL)
        if not setting:
            break
        name, unless_set, value = setting.groups()
        if not (unless_set and name in os.environ):
            os.environ[name] = value
    builds = os.environ.get("VGG_KERNEL_BUILDS")
    if builds and "EVCXR_TMPDIR" not in os.environ:
        folder = take_free(pathlib.Path(builds))
        warm_up(folder, folder.parent / "warm")
        crate = folder / "ctx"
        crate.mkdir(parents=True, exist_ok=True)
        os.environ["EVCXR_TMPDIR"] = str(crate)
    command = arguments[count:]
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
