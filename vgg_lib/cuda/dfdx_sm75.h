// For GPUs before compute capability 8.0 (T4, RTX 20) and CUDA 12.2 or newer: there, dfdx 0.13 defines two functions
// that cuda_fp16.h defines, too. `.cargo/config.toml` makes nvcc read this file before dfdx's kernels.
#include <cuda_fp16.h>
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 800
#define __hmax_nan dfdx_hmax_nan
#define __hmin_nan dfdx_hmin_nan
#endif
