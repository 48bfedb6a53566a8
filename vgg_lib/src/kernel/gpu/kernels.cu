// The GPU's kernels: everything that is not a matrix product. `make_ptx.py` compiles this file to `kernels.ptx`.
//
// Arrays are f32 in NHWC order, as on the CPU. A matrix of `rows` × `c` is a map whose positions are rows and whose
// columns are channels. Nothing is summed with atomics: partial sums are added in a fixed order, so the same input
// gives the same bits.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// Runs over the indices 0..n, whatever the size of the grid.
#define FOR(i, n) for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)

// V values that are loaded and stored at once.
template <int V> struct alignas(4 * V) Lanes { float v[V]; };

// A kernel for any number of channels, and one for multiples of four.
#define BOTH(name, params, args)                            \
  extern "C" __global__ void name##_1 params { name<1> args; } \
  extern "C" __global__ void name##_4 params { name<4> args; }

// max(x, 0); NaN stays NaN.
__device__ inline float positive(float x) { return x < 0.0f ? 0.0f : x; }

// ---- convolution ----

// The inputs under a k×k kernel, for the output positions from `row0` on: row r of `cols` has k·k·c values.
template <int V>
__device__ void im2col(const float *x, u32 row0, u32 rows, u32 h, u32 w, u32 c, u32 k, float *cols) {
  u32 tap = blockIdx.y, p = tap / k, q = tap % k, half = k / 2, vectors = c / V;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * vectors; i += gridDim.x * blockDim.x) {
    u32 r = i / vectors, channel = (i - r * vectors) * V;
    u32 line = (row0 + r) / w, j = row0 + r - line * w, image = line / h;
    u32 from_i = line - image * h + p - half, from_j = j + q - half;
    Lanes<V> value = {};
    if (from_i < h && from_j < w)
      value = *(const Lanes<V> *)(x + (((u64)image * h + from_i) * w + from_j) * c + channel);
    *(Lanes<V> *)(cols + ((u64)r * k * k + tap) * c + channel) = value;
  }
}
BOTH(im2col, (const float *x, u32 row0, u32 rows, u32 h, u32 w, u32 c, u32 k, float *cols),
     (x, row0, rows, h, w, c, k, cols))

// The filters with which a convolution of dy gives dx: turned by 180°, inputs and outputs exchanged.
extern "C" __global__ void turn_filters(const float *weight, u32 k, u32 in, u32 out, float *turned) {
  FOR(i, (u64)k * k * in * out) {
    u32 to_in = i % in, from_out = i / in % out, tap = i / in / out;
    turned[i] = weight[((u64)(k * k - 1 - tap) * in + to_in) * out + from_out];
  }
}

// What follows the product of a layer: bias, ReLU, y·scale + shift, ReLU; each if it is there.
template <int V>
__device__ void finish(float *y, u64 n, u32 c, const float *bias, u32 relu, const float *scale, const float *shift,
                       u32 relu_after) {
  FOR(i, n / V) {
    u32 channel = i * V % c;
    Lanes<V> value = *(Lanes<V> *)(y + i * V);
    for (int l = 0; l < V; l++) {
      float v = value.v[l];
      if (bias) v += bias[channel + l];
      if (relu) v = positive(v);
      if (scale) v = v * scale[channel + l] + shift[channel + l];
      if (relu_after) v = positive(v);
      value.v[l] = v;
    }
    *(Lanes<V> *)(y + i * V) = value;
  }
}
BOTH(finish,
     (float *y, u64 n, u32 c, const float *bias, u32 relu, const float *scale, const float *shift, u32 relu_after),
     (y, n, c, bias, relu, scale, shift, relu_after))

// ---- ReLU, dropout, softmax, preprocessing ----

extern "C" __global__ void relu(const float *x, float *y, u64 n) { FOR(i, n) y[i] = positive(x[i]); }

// dy becomes dx: 0 where y, the output of the ReLU, is 0.
extern "C" __global__ void relu_backward(float *dy, const float *y, u64 n) { FOR(i, n) if (!(y[i] > 0.0f)) dy[i] = 0.0f; }

// The CPU's dropout: element i is kept if hash(i ^ key) reaches the threshold. Threshold 0 keeps all.
struct Dropout { u32 key, threshold; float scale; };

__device__ inline u32 hash(u32 x) {
  x ^= x >> 16; x *= 0x7feb352du;
  x ^= x >> 15; x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

__device__ inline float drop(Dropout d, u64 i, float x) {
  return d.threshold == 0 ? x : x * (hash((u32)i ^ d.key) >= d.threshold ? d.scale : 0.0f);
}

extern "C" __global__ void dropout(const float *x, float *y, u64 n, u32 key, u32 threshold, float scale) {
  FOR(i, n) y[i] = drop({key, threshold, scale}, i, x[i]);
}

// One thread per row: rows are short.
extern "C" __global__ void softmax(const float *x, float *y, u32 rows, u32 c) {
  FOR(r, rows) {
    const float *row = x + r * c;
    float largest = row[0], sum = 0.0f;
    for (u32 k = 1; k < c; k++) largest = fmaxf(largest, row[k]);
    for (u32 k = 0; k < c; k++) sum += y[r * c + k] = expf(row[k] - largest);
    for (u32 k = 0; k < c; k++) y[r * c + k] /= sum;
  }
}

// dy becomes dx = p·(dy − Σ p·dy).
extern "C" __global__ void softmax_backward(float *dy, const float *p, u32 rows, u32 c) {
  FOR(r, rows) {
    float sum = 0.0f;
    for (u32 k = 0; k < c; k++) sum += dy[r * c + k] * p[r * c + k];
    for (u32 k = 0; k < c; k++) dy[r * c + k] = p[r * c + k] * (dy[r * c + k] - sum);
  }
}

// Channel k of y is (x[from k] − mean) / std.
extern "C" __global__ void preprocess(const float *x, float *y, u64 positions, u32 from0, u32 from1, u32 from2,
                                      float mean0, float mean1, float mean2, float std0, float std1, float std2) {
  FOR(i, positions) {
    const float *pixel = x + 3 * i;
    float *to = y + 3 * i;
    to[0] = (pixel[from0] - mean0) / std0;
    to[1] = (pixel[from1] - mean1) / std1;
    to[2] = (pixel[from2] - mean2) / std2;
  }
}

// ---- sums over the rows of a matrix ----

// Blocks of 256 threads: 32 columns times 8 rows at a time. Block (x, y, z) sums chunk y of group z.
struct Place {
  u32 lane, row, column;
  bool inside;
  __device__ Place(u32 c) {
    lane = threadIdx.x % 32; row = threadIdx.x / 32;
    column = blockIdx.x * 32 + lane; inside = column < c;
  }
};

// The sum of `value` over the 8 rows of threads, in the first of them.
template <class T> __device__ T across_rows(T value, T (*shared)[32], Place at) {
  __syncthreads();
  shared[at.row][at.lane] = value;
  __syncthreads();
  T sum = 0;
  if (at.row == 0)
    for (int r = 0; r < 8; r++) sum += shared[r][at.lane];
  return sum;
}

// partial[chunk][column] = Σ x.
extern "C" __global__ void column_sums(const float *x, u32 rows, u32 c, u32 chunk, float *partial) {
  __shared__ float shared[8][32];
  Place at(c);
  float sum = 0.0f;
  u32 end = min((blockIdx.y + 1) * chunk, rows);
  if (at.inside)
    for (u32 r = blockIdx.y * chunk + at.row; r < end; r += 8) sum += x[(u64)r * c + at.column];
  sum = across_rows(sum, shared, at);
  if (at.row == 0 && at.inside) partial[(u64)blockIdx.y * c + at.column] = sum;
}

extern "C" __global__ void column_sums_finish(const float *partial, u32 chunks, u32 c, float *sums) {
  __shared__ double shared[8][32];
  Place at(c);
  double sum = 0.0;
  if (at.inside)
    for (u32 k = at.row; k < chunks; k += 8) sum += partial[(u64)k * c + at.column];
  sum = across_rows(sum, shared, at);
  if (at.row == 0 && at.inside) sums[at.column] = (float)sum;
}

// ---- batch norm; `rows` are those of one group ----

// Σ (x − x₀) and Σ (x − x₀)² of a chunk, where x₀ is the group's first row: a large mean costs no precision.
extern "C" __global__ void statistics(const float *x, u32 rows, u32 c, u32 chunk, float *partial) {
  __shared__ float shared[8][32];
  Place at(c);
  const float *group = x + (u64)blockIdx.z * rows * c;
  float sum = 0.0f, squares = 0.0f;
  u32 end = min((blockIdx.y + 1) * chunk, rows);
  if (at.inside) {
    float first = group[at.column];
    for (u32 r = blockIdx.y * chunk + at.row; r < end; r += 8) {
      float d = group[(u64)r * c + at.column] - first;
      sum += d;
      squares += d * d;
    }
  }
  sum = across_rows(sum, shared, at);
  squares = across_rows(squares, shared, at);
  if (at.row == 0 && at.inside) {
    float *to = partial + ((u64)blockIdx.z * gridDim.y + blockIdx.y) * 2 * c + at.column;
    to[0] = sum;
    to[c] = squares;
  }
}

// For each group: moments = mean and variance; affine = γ/σ and β − mean·γ/σ.
extern "C" __global__ void statistics_finish(const float *x, const float *partial, u32 rows, u32 c, u32 chunks,
                                             const float *gamma, const float *beta, float epsilon, float *moments,
                                             float *affine) {
  __shared__ double shared[8][32];
  Place at(c);
  u32 group = blockIdx.y;
  double sum = 0.0, squares = 0.0;
  if (at.inside)
    for (u32 k = at.row; k < chunks; k += 8) {
      const float *from = partial + ((u64)group * chunks + k) * 2 * c + at.column;
      sum += from[0];
      squares += from[c];
    }
  sum = across_rows(sum, shared, at);
  squares = across_rows(squares, shared, at);
  if (at.row != 0 || !at.inside) return;
  double shift = sum / rows, variance = squares / rows - shift * shift;
  if (variance < 0.0) variance = 0.0;
  float mean = (float)(x[(u64)group * rows * c + at.column] + shift);
  float scale = gamma[at.column] / sqrtf((float)variance + epsilon);
  u64 to = (u64)group * 2 * c + at.column;
  moments[to] = mean;
  moments[to + c] = (float)variance;
  affine[to] = scale;
  affine[to + c] = beta[at.column] - mean * scale;
}

// The same from running statistics: one group.
extern "C" __global__ void running_affine(const float *mean, const float *variance, const float *gamma,
                                          const float *beta, float epsilon, u32 c, float *affine) {
  FOR(k, c) {
    float scale = gamma[k] / sqrtf(variance[k] + epsilon);
    affine[k] = scale;
    affine[k + c] = beta[k] - mean[k] * scale;
  }
}

// y = dropout(x·scale + shift). `part` is the number of values in a group.
template <int V>
__device__ void affine(const float *x, float *y, u64 n, u32 c, u64 part, const float *affine, Dropout dropout) {
  FOR(i, n / V) {
    u32 channel = i * V % c;
    const float *scale = affine + (part == n ? 0 : i * V / part) * 2 * c + channel;
    Lanes<V> value = *(const Lanes<V> *)(x + i * V);
    for (int l = 0; l < V; l++) value.v[l] = drop(dropout, i * V + l, value.v[l] * scale[l] + scale[c + l]);
    *(Lanes<V> *)(y + i * V) = value;
  }
}
BOTH(affine,
     (const float *x, float *y, u64 n, u32 c, u64 part, const float *factors, u32 key, u32 threshold, float scale),
     (x, y, n, c, part, factors, {key, threshold, scale}))

// running = momentum·running + (1 − momentum)·batch, where the batch is the union of the groups.
extern "C" __global__ void move_running(const float *moments, u32 groups, u32 c, float momentum, float *mean,
                                        float *variance) {
  FOR(k, c) {
    double center = 0.0, spread = 0.0;
    for (u32 g = 0; g < groups; g++) center += moments[(u64)g * 2 * c + k];
    center /= groups;
    for (u32 g = 0; g < groups; g++) {
      double off = moments[(u64)g * 2 * c + k] - center;
      spread += moments[((u64)g * 2 + 1) * c + k] + off * off;
    }
    mean[k] = momentum * mean[k] + (1.0f - momentum) * (float)center;
    variance[k] = momentum * variance[k] + (1.0f - momentum) * (float)(spread / groups);
  }
}

// Σ dy·(x − mean) and Σ dy of a chunk; dy comes from after the dropout.
extern "C" __global__ void norm_backward_sums(const float *dy, const float *x, const float *moments, u32 rows, u32 c,
                                              u32 chunk, u32 key, u32 threshold, float scale, float *partial) {
  __shared__ float shared[8][32];
  Place at(c);
  u64 start = (u64)blockIdx.z * rows * c;
  float dot = 0.0f, sum = 0.0f;
  u32 end = min((blockIdx.y + 1) * chunk, rows);
  if (at.inside) {
    float mean = moments[(u64)blockIdx.z * 2 * c + at.column];
    for (u32 r = blockIdx.y * chunk + at.row; r < end; r += 8) {
      u64 i = start + (u64)r * c + at.column;
      float d = drop({key, threshold, scale}, i, dy[i]);
      dot += d * (x[i] - mean);
      sum += d;
    }
  }
  dot = across_rows(dot, shared, at);
  sum = across_rows(sum, shared, at);
  if (at.row == 0 && at.inside) {
    float *to = partial + ((u64)blockIdx.z * gridDim.y + blockIdx.y) * 2 * c + at.column;
    to[0] = dot;
    to[c] = sum;
  }
}

// dγ and dβ over all groups, and for each group a, b, d of dx = a·dy + b·x + d.
extern "C" __global__ void norm_backward_finish(const float *partial, const float *moments, const float *gamma,
                                                float epsilon, u32 rows, u32 c, u32 chunks, u32 groups,
                                                float *constants, float *dgamma, float *dbeta) {
  __shared__ double shared[8][32];
  Place at(c);
  double all_dot = 0.0, all_sum = 0.0;
  for (u32 group = 0; group < groups; group++) {
    double dot = 0.0, sum = 0.0;
    if (at.inside)
      for (u32 k = at.row; k < chunks; k += 8) {
        const float *from = partial + ((u64)group * chunks + k) * 2 * c + at.column;
        dot += from[0];
        sum += from[c];
      }
    dot = across_rows(dot, shared, at);
    sum = across_rows(sum, shared, at);
    if (at.row != 0 || !at.inside) continue;
    double mean = moments[(u64)group * 2 * c + at.column], variance = moments[((u64)group * 2 + 1) * c + at.column];
    double inv_std = 1.0f / sqrtf((float)variance + epsilon), factor = gamma[at.column] * inv_std;
    dot *= inv_std;
    float *to = constants + (u64)group * 3 * c + at.column;
    to[0] = (float)factor;
    to[c] = (float)(-factor * dot / rows * inv_std);
    to[2 * c] = (float)(factor * (dot / rows * inv_std * mean - sum / rows));
    all_dot += dot;
    all_sum += sum;
  }
  if (at.row == 0 && at.inside) {
    dgamma[at.column] = (float)all_dot;
    dbeta[at.column] = (float)all_sum;
  }
}

// dy becomes dx; with `relu`, x is the output of a ReLU whose backward pass is done here too.
template <int V>
__device__ void norm_backward(float *dy, const float *x, u64 n, u32 c, u64 part, const float *constants,
                              Dropout dropout, u32 relu) {
  FOR(i, n / V) {
    u32 channel = i * V % c;
    const float *a = constants + (part == n ? 0 : i * V / part) * 3 * c + channel;
    Lanes<V> d = *(Lanes<V> *)(dy + i * V), in = *(const Lanes<V> *)(x + i * V);
    for (int l = 0; l < V; l++) {
      float v = a[l] * drop(dropout, i * V + l, d.v[l]) + a[c + l] * in.v[l] + a[2 * c + l];
      d.v[l] = relu && !(in.v[l] > 0.0f) ? 0.0f : v;
    }
    *(Lanes<V> *)(dy + i * V) = d;
  }
}
BOTH(norm_backward,
     (float *dy, const float *x, u64 n, u32 c, u64 part, const float *constants, u32 key, u32 threshold, float scale,
      u32 relu),
     (dy, x, n, c, part, constants, {key, threshold, scale}, relu))

// ---- pooling ----

// The maximum of each 2×2 window and its position, row by row; of equal values the first. NaN wins.
extern "C" __global__ void max_pool(const float *x, u64 n, u32 h, u32 w, u32 c, float *y, u8 *index) {
  u32 ho = h / 2, wo = w / 2;
  FOR(i, n) {
    u32 channel = i % c;
    u64 position = i / c;
    u32 j = position % wo;
    u64 line = position / wo;
    const float *from = x + ((line / ho * h + line % ho * 2) * w + 2 * j) * c + channel;
    float best = from[0];
    u8 which = 0;
    for (int k = 1; k < 4; k++) {
      float v = from[(u64)(k / 2) * w * c + k % 2 * c];
      if (v > best || v != v) { best = v; which = k; }
    }
    y[i] = best;
    index[i] = which;
  }
}

extern "C" __global__ void max_pool_backward(const float *dy, const u8 *index, u64 n, u32 h, u32 w, u32 c, float *dx) {
  u32 ho = h / 2, wo = w / 2;
  FOR(i, n) {
    u32 channel = i % c;
    u64 position = i / c;
    u32 j = position % w;
    u64 line = position / w;
    u32 row = line % h;
    float v = 0.0f;
    if (row / 2 < ho && j / 2 < wo) {
      u64 from = ((line / h * ho + row / 2) * wo + j / 2) * c + channel;
      if (index[from] == row % 2 * 2 + j % 2) v = dy[from];
    }
    dx[i] = v;
  }
}

// y = the mean over the positions of each image; n = images·c.
extern "C" __global__ void average_pool(const float *x, u64 n, u32 positions, u32 c, float *y) {
  FOR(i, n) {
    const float *from = x + i / c * positions * c + i % c;
    float sum = 0.0f;
    for (u32 k = 0; k < positions; k++) sum += from[(u64)k * c];
    y[i] = sum / positions;
  }
}

extern "C" __global__ void average_pool_backward(const float *dy, u64 n, u32 positions, u32 c, float *dx) {
  FOR(i, n) dx[i] = dy[i / c / positions * c + i % c] / positions;
}

// Output i of `outputs` in adaptive pooling averages these of `inputs`; with both exchanged, the outputs that average
// input i. See the CPU's `window`.
struct Window {
  u32 start, end;
  __device__ Window(u32 i, u32 outputs, u32 inputs)
      : start(i * inputs / outputs), end(((i + 1) * inputs + outputs - 1) / outputs) {}
  __device__ u32 size() const { return end - start; }
};

// y = the mean of each window; n = images·rows·columns·c.
extern "C" __global__ void adaptive_pool(const float *x, u64 n, u32 h, u32 w, u32 rows, u32 columns, u32 c, float *y) {
  FOR(k, n) {
    u64 position = k / c, line = position / columns;
    Window down(line % rows, rows, h), across(position % columns, columns, w);
    const float *from = x + line / rows * h * w * c + k % c;
    float sum = 0.0f;
    for (u32 i = down.start; i < down.end; i++)
      for (u32 j = across.start; j < across.end; j++) sum += from[((u64)i * w + j) * c];
    y[k] = sum / (down.size() * across.size());
  }
}

// Each position collects its share of the gradients of all windows that it is in; n = images·h·w·c.
extern "C" __global__ void adaptive_pool_backward(const float *dy, u64 n, u32 h, u32 w, u32 rows, u32 columns, u32 c,
                                                  float *dx) {
  FOR(k, n) {
    u64 position = k / c, line = position / w;
    Window down(line % h, h, rows), across(position % w, w, columns);
    const float *from = dy + line / h * rows * columns * c + k % c;
    float sum = 0.0f;
    for (u32 i = down.start; i < down.end; i++)
      for (u32 j = across.start; j < across.end; j++)
        sum += from[((u64)i * columns + j) * c] / (Window(i, rows, h).size() * Window(j, columns, w).size());
    dx[k] = sum;
  }
}

// ---- optimizers ----

// y = a·y + b·x.
extern "C" __global__ void axpby(float *y, float a, const float *x, float b, u64 n) {
  FOR(i, n) y[i] = a * y[i] + b * x[i];
}

// g = scale·(g + 2λw), v = μv − ηg, w += v; with Nesterov's momentum, w += μv − ηg.
extern "C" __global__ void sgd(float *w, const float *g, float *v, u64 n, float rate, float scale, float momentum,
                               u32 nesterov, float l2) {
  FOR(i, n) {
    float gradient = scale * (g[i] + 2.0f * l2 * w[i]);
    float velocity = momentum * v[i] - rate * gradient;
    v[i] = velocity;
    w[i] += nesterov ? momentum * velocity - rate * gradient : velocity;
  }
}

extern "C" __global__ void adam(float *w, const float *g, float *m, float *v, u64 n, float rate, float correction,
                                float keep, float scale, float beta1, float beta2, float epsilon, float l2) {
  FOR(i, n) {
    float gradient = scale * (g[i] + 2.0f * l2 * w[i]);
    m[i] = beta1 * m[i] + (1.0f - beta1) * gradient;
    v[i] = beta2 * v[i] + (1.0f - beta2) * gradient * gradient;
    w[i] = keep * w[i] - rate * m[i] / (sqrtf(v[i]) * correction + epsilon);
  }
}

// partial[block] = Σ (x + 2λw)², or Σ x² without w.
extern "C" __global__ void squares(const float *x, const float *w, float l2, u64 n, double *partial) {
  __shared__ double shared[256];
  double sum = 0.0;
  FOR(i, n) {
    float v = w ? x[i] + 2.0f * l2 * w[i] : x[i];
    sum += (double)(v * v);
  }
  shared[threadIdx.x] = sum;
  for (u32 half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = shared[0];
}

// total += factor · Σ partial. There are few, so one thread is enough.
extern "C" __global__ void add_squares(const double *partial, u32 count, double factor, double *total) {
  if (threadIdx.x != 0) return;
  double sum = 0.0;
  for (u32 k = 0; k < count; k++) sum += partial[k];
  *total += factor * sum;
}

// Muon: v = μv + g, and g becomes the direction u = v or, with Nesterov's momentum, g + μv.
extern "C" __global__ void muon_direction(const float *w, float *g, float *v, u64 n, float scale, float momentum,
                                          u32 nesterov, float l2) {
  FOR(i, n) {
    float gradient = scale * (g[i] + 2.0f * l2 * w[i]);
    v[i] = momentum * v[i] + gradient;
    g[i] = nesterov ? gradient + momentum * v[i] : v[i];
  }
}

// x *= factor / squares, or with `root` factor / √squares. Where squares is 0, x *= otherwise.
extern "C" __global__ void divide(float *x, u64 n, double factor, const double *squares, u32 root, float otherwise) {
  float by = *squares > 0.0 ? (float)(factor / (root ? sqrt(*squares) : *squares)) : otherwise;
  FOR(i, n) x[i] *= by;
}

// p = a·I + b·x + c·x², for n×n matrices.
extern "C" __global__ void polynomial(const float *x, const float *square, u32 n, float a, float b, float c, float *p) {
  FOR(i, (u64)n * n) p[i] = b * x[i] + c * square[i] + (i / n == i % n ? a : 0.0f);
}
