"""Compiles kernels.cu to kernels.ptx: pip install nvidia-cuda-nvrtc-cu12==12.1.105; python make_ptx.py

PTX for compute capability 7.5 (Turing: T4, RTX 20) of CUDA 12.1 runs on that and every later GPU, with drivers since
530; the driver compiles it for the GPU at hand. A test compares the first line with the hash of kernels.cu.
"""

import ctypes
import glob
import hashlib
import importlib.util
import os

here = os.path.dirname(os.path.abspath(__file__))
source = open(os.path.join(here, "kernels.cu"), "rb").read()
folder = importlib.util.find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0]
nvrtc = ctypes.CDLL(glob.glob(os.path.join(folder, "lib", "libnvrtc.so.*"))[0])


def check(code):
    if code != 0:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise SystemExit(log.value.decode())


program = ctypes.c_void_p()
check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None))
options = [b"--gpu-architecture=compute_75", b"--std=c++17", b"-default-device"]
check(nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
size = ctypes.c_size_t()
check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)))
ptx = ctypes.create_string_buffer(size.value)
check(nvrtc.nvrtcGetPTX(program, ptx))
with open(os.path.join(here, "kernels.ptx"), "w") as file:
    file.write(f"// kernels.cu, SHA-256 {hashlib.sha256(source).hexdigest()}\n{ptx.value.decode()}")
