// A stand-in for NVIDIA's driver and cuBLAS on a machine without a GPU: runs kernels.cu on the CPU, one thread after
// another. So the tests of the GPU engine run everywhere. It finds wrong arithmetic, reads of memory that nobody wrote
// (new memory is NaN) and writes beyond its end; it finds no races.
//
// STAND_IN_DEVICES=0: a driver without a GPU. STAND_IN_MEMORY=bytes: how much memory there is. STAND_IN_LAUNCHES=n: the
// GPU fails after n launches.
//
// Built by `cargo xtask test`: g++ -O3 -std=c++17 -fPIC -shared -I <folder of kernels.cu and kernels.inc> stand_in.cpp

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>

// ---- CUDA's language ----

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __shared__ static
static void __syncthreads();
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

#include "kernels.cu"

// ---- kernels by name, called with pointers to their arguments ----

typedef void (*Call)(void **);
template <class... A, size_t... I> static void unpack(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
  kernel(*(std::remove_const_t<A> *)arguments[I]...);
}
template <class... A> static void call(void (*kernel)(A...), void **arguments) {
  unpack(kernel, arguments, std::index_sequence_for<A...>{});
}
static std::map<std::string, Call> kernels = {
#define KERNEL(name) {#name, [](void **arguments) { call(&name, arguments); }},
#include "kernels.inc"
};

// ---- a block whose threads wait for each other: each thread is a context of its own ----

static const int THREADS = 256, STACK = 64 << 10;
static ucontext_t home, threads[THREADS];
static char stacks[THREADS][STACK];
static bool done[THREADS], in_block;
static int current;
static Call running;
static void **arguments;

static void __syncthreads() { swapcontext(&threads[current], &home); }

static void thread_main() {
  running(arguments);
  done[current] = true;
}

static void run_block() {
  for (int t = 0; t < THREADS; t++) {
    getcontext(&threads[t]);
    threads[t].uc_stack.ss_sp = stacks[t];
    threads[t].uc_stack.ss_size = STACK;
    threads[t].uc_link = &home;
    makecontext(&threads[t], thread_main, 0);
    done[t] = false;
  }
  for (int left = THREADS; left;)
    for (int t = 0; t < THREADS; t++)
      if (!done[t]) {
        current = t;
        threadIdx = {(unsigned)t, 0, 0};
        swapcontext(&home, &threads[t]);
        left -= done[t];
      }
}

static bool has_barrier(const std::string &name) {
  for (const char *part : {"column_sums", "statistics", "norm_backward_sums", "norm_backward_finish", "squares"})
    if (name.find(part) == 0) return true;
  return false;
}

// ---- the driver ----

static long limit(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

static long launches, used;
static std::map<uint64_t, size_t> sizes;
static const size_t GUARD = 64;

#define API(name) extern "C" __attribute__((visibility("default"))) int name
API(cuInit)(unsigned) { return 0; }
API(cuDriverGetVersion)(int *version) { *version = 13000; return 0; }
API(cuGetErrorString)(int code, const char **text) {
  *text = code == 2 ? "out of memory" : code == 719 ? "unspecified launch failure" : "invalid value";
  return 0;
}
API(cuDeviceGetCount)(int *count) { *count = limit("STAND_IN_DEVICES", 1); return 0; }
API(cuDeviceGet)(int *device, int number) { *device = number; return 0; }
API(cuDeviceGetName)(char *name, int size, int) { snprintf(name, size, "Stand-in GPU"); return 0; }
API(cuDeviceGetAttribute)(int *value, int, int) { *value = 8; return 0; }
API(cuDevicePrimaryCtxRetain)(void **context, int) { *context = (void *)1; return 0; }
API(cuCtxSetCurrent)(void *) { return 0; }
API(cuStreamCreate)(void **stream, unsigned) { *stream = (void *)1; return 0; }
API(cuStreamSynchronize)(void *) { return 0; }
API(cuEventCreate)(void **event, unsigned) { *event = (void *)1; return 0; }
API(cuEventRecord)(void *, void *) { return 0; }
API(cuEventSynchronize)(void *) { return 0; }
API(cuModuleLoadData)(void **module, const void *) { *module = (void *)1; return 0; }
API(cuModuleGetFunction)(void **function, void *, const char *name) {
  auto found = kernels.find(name);
  if (found == kernels.end()) return 500;
  *function = (void *)&*found;
  return 0;
}
API(cuMemGetInfo_v2)(size_t *free, size_t *total) {
  *total = limit("STAND_IN_MEMORY", 1L << 40);
  *free = *total - used;
  return 0;
}
API(cuMemAlloc_v2)(uint64_t *pointer, size_t size) {
  if (used + (long)size > limit("STAND_IN_MEMORY", 1L << 40)) return 2;
  char *memory = (char *)aligned_alloc(256, (size + GUARD + 255) / 256 * 256);
  if (!memory) return 2;
  memset(memory, 0xff, size + GUARD);
  used += size;
  sizes[*pointer = (uint64_t)memory] = size;
  return 0;
}
API(cuMemFree_v2)(uint64_t pointer) {
  size_t size = sizes.at(pointer);
  for (size_t i = 0; i < GUARD; i++)
    if (((unsigned char *)pointer)[size + i] != 0xff) { fprintf(stderr, "written beyond %zu bytes\n", size); abort(); }
  used -= size;
  sizes.erase(pointer);
  free((void *)pointer);
  return 0;
}
API(cuMemAllocHost_v2)(void **pointer, size_t size) { *pointer = malloc(size); return 0; }
API(cuMemcpyHtoDAsync_v2)(uint64_t to, const void *from, size_t size, void *) { memcpy((void *)to, from, size); return 0; }
API(cuMemcpyDtoHAsync_v2)(void *to, uint64_t from, size_t size, void *) { memcpy(to, (void *)from, size); return 0; }
API(cuMemcpyDtoDAsync_v2)(uint64_t to, uint64_t from, size_t size, void *) { memmove((void *)to, (void *)from, size); return 0; }
API(cuMemsetD32Async)(uint64_t to, unsigned value, size_t count, void *) {
  std::fill_n((unsigned *)to, count, value);
  return 0;
}
API(cuLaunchKernel)(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                    void *, void **with, void **) {
  if (launches++ >= limit("STAND_IN_LAUNCHES", 1L << 60)) return 719;
  if (gx == 0 || gy == 0 || gz == 0 || gy > 65535 || gz > 65535 || bx != THREADS || by != 1 || bz != 1) return 1;
  auto &kernel = *(std::pair<const std::string, Call> *)function;
  bool barrier = has_barrier(kernel.first);
  gridDim = {gx, gy, gz};
  blockDim = {bx, by, bz};
  running = kernel.second;
  arguments = with;
  for (blockIdx.z = 0; blockIdx.z < gz; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++) {
        if (barrier) { run_block(); continue; }
        for (unsigned t = 0; t < bx; t++) {
          threadIdx = {t, 0, 0};
          running(with);
        }
      }
  return 0;
}

// ---- cuBLAS: matrices by columns ----

API(cublasCreate_v2)(void **handle) { *handle = (void *)1; return 0; }
API(cublasSetStream_v2)(void *, void *) { return 0; }
API(cublasSetMathMode)(void *, int) { return 0; }
API(cublasSgemm_v2)(void *, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, int lda, const float *b,
                    int ldb, const float *beta, float *c, int ldc) {
  if (m < 0 || n < 0 || k < 0 || lda < std::max(1, ta ? k : m) || ldb < std::max(1, tb ? n : k) || ldc < std::max(1, m)) return 7;
  static float sums[1 << 20];
  if (m > 1 << 20) return 7;
  for (int j = 0; j < n; j++) {
    std::fill_n(sums, m, 0.0f);
    for (int l = 0; l < k && !ta; l++) {
      float by = b[tb ? j + (int64_t)l * ldb : l + (int64_t)j * ldb];
      for (int i = 0; i < m; i++) sums[i] += a[i + (int64_t)l * lda] * by;
    }
    for (int i = 0; i < m && ta; i++)
      for (int l = 0; l < k; l++) sums[i] += a[l + (int64_t)i * lda] * b[tb ? j + (int64_t)l * ldb : l + (int64_t)j * ldb];
    for (int i = 0; i < m; i++) {
      float &to = c[i + (int64_t)j * ldc];
      to = *beta == 0.0f ? *alpha * sums[i] : *alpha * sums[i] + *beta * to;
    }
  }
  return 0;
}
