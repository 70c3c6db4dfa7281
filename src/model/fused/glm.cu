// Kernels of a decode step, each in f16, bf16 and f32. Sums, norms and softmax are f32 whatever the type of the tensors.
//
// The host checks all sizes before a launch (`launch.rs`). One step uploads once: for each layer and pool the addresses of its
// keys and values, then for each row a `Row`. Threads of a block work on one row, or on one head of a row, and no two blocks
// write to the same place.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace glm {

// Numbers of a head. The attention below is laid out for it.
constexpr int HEAD = 64;

// Threads of a block that attends: 16 groups of 8, each group with one column at a time, each thread with 8 numbers of it.
constexpr int ATTENDING = 128;

// The most numbers of a row that one thread of a norm holds.
constexpr int HELD = 8;

// What the host tells of each row of a step.
struct Row {
  uint32_t id, position, block_position;
  // The pool that holds its keys and values, and where in it they begin, in columns.
  uint32_t pool, first;
  // Columns that each head has in the pool.
  uint32_t columns;
  // Columns that the row has used; its new key and value go behind them.
  uint32_t length;
  uint32_t unused;
};

// Addresses of one layer's keys and values in one pool.
struct Cached {
  uint64_t keys, values;
};

__device__ __forceinline__ float wide(float v) { return v; }
__device__ __forceinline__ float wide(__half v) { return __half2float(v); }
__device__ __forceinline__ float wide(__nv_bfloat16 v) { return __bfloat162float(v); }

// Rounds to the nearest number of a type.
template <typename T> __device__ __forceinline__ T rounded(float v);
template <> __device__ __forceinline__ float rounded<float>(float v) { return v; }
template <> __device__ __forceinline__ __half rounded<__half>(float v) { return __float2half(v); }
template <> __device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

// As many numbers as one access to the memory takes.
template <typename T> struct alignas(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T of[SIZE];
};

// Eight numbers from an address that 16 divides.
template <typename T> __device__ __forceinline__ void eight(const T *from, float (&to)[8]) {
  constexpr int SIZE = Pack<T>::SIZE;
#pragma unroll
  for (int part = 0; part < 8 / SIZE; part++) {
    const Pack<T> pack = reinterpret_cast<const Pack<T> *>(from)[part];
#pragma unroll
    for (int i = 0; i < SIZE; i++) to[part * SIZE + i] = wide(pack.of[i]);
  }
}

// The sum over all threads of a block of whole warps, for each of them.
__device__ __forceinline__ float sum_of_block(float v, float *of_warps) {
#pragma unroll
  for (int far = 16; far > 0; far /= 2) v += __shfl_xor_sync(0xffffffffu, v, far);
  // What the last call left in the shared memory may still be read.
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < (int)blockDim.x / 32; warp++) sum += of_warps[warp];
  return sum;
}

// LayerNorm of a row that the threads of a block hold between them; the variance is that around the mean.
template <typename T>
__device__ __forceinline__ void norm(const float (&held)[HELD], const float *scale, const float *shift, T *out, int width,
                                     float epsilon) {
  __shared__ float of_warps[32];
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < HELD; k++) sum += held[k];
  const float mean = sum_of_block(sum, of_warps) / width;
  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const float off = (int)(threadIdx.x + k * blockDim.x) < width ? held[k] - mean : 0.0f;
    squares += off * off;
  }
  const float inverse = rsqrtf(sum_of_block(squares, of_warps) / width + epsilon);
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int i = threadIdx.x + k * blockDim.x;
    if (i < width) out[i] = rounded<T>((held[k] - mean) * inverse * scale[i] + shift[i]);
  }
}

// The embeddings of a row's token and positions, summed into `x`, and their norm. One block a row.
template <typename T>
__device__ __forceinline__ void embed_norm(const Row *rows, const T *words, const T *positions, const T *block_positions,
                                           const float *scale, const float *shift, float *x, T *out, int width,
                                           float epsilon) {
  const Row row = rows[blockIdx.x];
  const size_t start = (size_t)blockIdx.x * width;
  float held[HELD];
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int i = threadIdx.x + k * blockDim.x;
    held[k] = 0.0f;
    if (i < width) {
      float v = wide(words[(size_t)row.id * width + i]) + wide(positions[(size_t)row.position * width + i]);
      if (block_positions) v += wide(block_positions[(size_t)row.block_position * width + i]);
      x[start + i] = held[k] = v;
    }
  }
  norm(held, scale, shift, out + start, width, epsilon);
}

// Adds a product and its bias to `x`, and norms the sum. One block a row.
template <typename T>
__device__ __forceinline__ void add_norm(float *x, const T *product, const T *bias, const float *scale, const float *shift,
                                         T *out, int width, float epsilon) {
  const size_t start = (size_t)blockIdx.x * width;
  float held[HELD];
#pragma unroll
  for (int k = 0; k < HELD; k++) {
    const int i = threadIdx.x + k * blockDim.x;
    held[k] = 0.0f;
    if (i < width) x[start + i] = held[k] = x[start + i] + (wide(product[start + i]) + wide(bias[i]));
  }
  norm(held, scale, shift, out + start, width, epsilon);
}

// What some columns come to: their largest score, and beside it the sum of the weights and of the weighted values.
struct Seen {
  float top, sum, values[8];
};

// What scores are counted from: the largest, and 0 where there is none, because no weight may become NaN by that.
__device__ __forceinline__ float base(float top) { return top == -INFINITY ? 0.0f : top; }

// One more column; a score of -inf leaves all as it is.
__device__ __forceinline__ void see(Seen &seen, float score, const float (&values)[8]) {
  const float top = fmaxf(seen.top, score);
  const float before = expf(seen.top - base(top)), weight = expf(score - base(top));
  seen.top = top;
  seen.sum = seen.sum * before + weight;
#pragma unroll
  for (int i = 0; i < 8; i++) seen.values[i] = seen.values[i] * before + weight * values[i];
}

// Takes in what the thread `far` away in the warp has seen.
__device__ __forceinline__ void join(Seen &seen, int far) {
  const float theirs = __shfl_xor_sync(0xffffffffu, seen.top, far);
  const float top = fmaxf(seen.top, theirs);
  const float mine = expf(seen.top - base(top)), other = expf(theirs - base(top));
  seen.top = top;
  seen.sum = seen.sum * mine + __shfl_xor_sync(0xffffffffu, seen.sum, far) * other;
#pragma unroll
  for (int i = 0; i < 8; i++)
    seen.values[i] = seen.values[i] * mine + __shfl_xor_sync(0xffffffffu, seen.values[i], far) * other;
}

// The bias of queries, keys and values; the new key and value to their column; and what the query sees of all columns
// up to it. `pools` are those of the layer. One block for each head of each row.
template <typename T, typename C>
__device__ __forceinline__ void attend(const T *projected, const T *bias, const Cached *pools, const Row *rows, T *out,
                                       int heads, float factor) {
  constexpr int GROUPS = ATTENDING / 8, WARPS = ATTENDING / 32;
  __shared__ float query[HEAD], top_of[WARPS], sum_of[WARPS], values_of[WARPS][HEAD];
  const Row row = rows[blockIdx.x];
  const int head = blockIdx.y, width = heads * HEAD, thread = threadIdx.x;
  const size_t start = ((size_t)row.first + (size_t)head * row.columns) * HEAD;
  C *keys = reinterpret_cast<C *>(pools[row.pool].keys) + start;
  C *values = reinterpret_cast<C *>(pools[row.pool].values) + start;

  // Half of the threads make the query, the others the key and the value, rounded as a product with bias is.
  const T *from = projected + (size_t)blockIdx.x * 3 * width;
  const int at = head * HEAD + thread % HEAD;
  if (thread < HEAD) {
    query[thread] = wide(rounded<T>(wide(from[at]) + wide(bias[at]))) * factor;
  } else {
    const size_t to = (size_t)row.length * HEAD + thread % HEAD;
    keys[to] = rounded<C>(wide(rounded<T>(wide(from[width + at]) + wide(bias[width + at]))));
    values[to] = rounded<C>(wide(rounded<T>(wide(from[2 * width + at]) + wide(bias[2 * width + at]))));
  }
  __syncthreads();

  const int group = thread / 8, first = thread % 8 * 8;
  const int columns = row.length + 1;
  Seen seen = {-INFINITY, 0.0f, {0.0f}};
  // All threads go the same number of rounds, because those of a warp exchange numbers. Two columns a round: their keys and
  // values are asked for before any of them is needed.
  for (int begin = 0; begin < columns; begin += 2 * GROUPS) {
    float key[2][8] = {}, value[2][8] = {}, score[2];
#pragma unroll
    for (int turn = 0; turn < 2; turn++) {
      const int column = begin + turn * GROUPS + group;
      if (column < columns) {
        eight(keys + (size_t)column * HEAD + first, key[turn]);
        eight(values + (size_t)column * HEAD + first, value[turn]);
      }
    }
#pragma unroll
    for (int turn = 0; turn < 2; turn++) {
      score[turn] = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) score[turn] += query[first + i] * key[turn][i];
#pragma unroll
      for (int far = 4; far > 0; far /= 2) score[turn] += __shfl_xor_sync(0xffffffffu, score[turn], far);
      // A column behind the row's own has no weight, whatever the query is.
      if (begin + turn * GROUPS + group >= columns) score[turn] = -INFINITY;
      see(seen, score[turn], value[turn]);
    }
  }
  join(seen, 8);
  join(seen, 16);
  const int warp = thread / 32;
  if (thread % 32 < 8) {
    top_of[warp] = seen.top;
    sum_of[warp] = seen.sum;
#pragma unroll
    for (int i = 0; i < 8; i++) values_of[warp][first + i] = seen.values[i];
  }
  __syncthreads();
  if (thread >= HEAD) return;
  float top = -INFINITY, sum = 0.0f, weighted = 0.0f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) top = fmaxf(top, top_of[w]);
#pragma unroll
  for (int w = 0; w < WARPS; w++) {
    const float share = expf(top_of[w] - base(top));
    sum += share * sum_of[w];
    weighted += share * values_of[w][thread];
  }
  out[(size_t)blockIdx.x * width + at] = rounded<T>(weighted / sum);
}

// The exact GELU of a product and its bias, in place. One thread a pack; packs of a row begin at its first number.
template <typename T> __device__ __forceinline__ void bias_gelu(T *product, const T *bias, int width, unsigned packs) {
  constexpr int SIZE = Pack<T>::SIZE;
  const unsigned number = blockIdx.x * blockDim.x + threadIdx.x;
  if (number >= packs) return;
  Pack<T> *place = reinterpret_cast<Pack<T> *>(product) + number;
  const Pack<T> shift = reinterpret_cast<const Pack<T> *>(bias)[number % (width / SIZE)];
  Pack<T> pack = *place;
#pragma unroll
  for (int i = 0; i < SIZE; i++) {
    const float v = wide(pack.of[i]) + wide(shift.of[i]);
    pack.of[i] = rounded<T>(v * normcdff(v));
  }
  *place = pack;
}

// A number and its id as one whole number: the larger is the larger of two numbers, and of equal ones that with the lower id.
// No finite number gives ~0, which is kept for those that are not.
__device__ __forceinline__ unsigned long long ranked(float v, uint32_t id) {
  if (!(fabsf(v) < INFINITY)) return ~0ull;
  // Adding zero makes -0 and 0 equal.
  const uint32_t bits = __float_as_uint(v + 0.0f);
  const uint32_t rank = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (unsigned long long)rank << 32 | (0xffffffffu - id);
}

// For each row the width less the lowest id of the largest logit, and 0, or NaN where some logit is not finite. One block a
// row.
template <typename T> __device__ __forceinline__ void likeliest(const T *logits, float *found, int width) {
  __shared__ unsigned long long best_of[32];
  logits += (size_t)blockIdx.x * width;
  unsigned long long best = 0;
  for (int id = threadIdx.x; id < width; id += blockDim.x) {
    const unsigned long long here = ranked(wide(logits[id]), id);
    best = here > best ? here : best;
  }
#pragma unroll
  for (int far = 16; far > 0; far /= 2) {
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, far);
    best = other > best ? other : best;
  }
  if (threadIdx.x % 32 == 0) best_of[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < (int)blockDim.x / 32; warp++) best = best_of[warp] > best ? best_of[warp] : best;
  const uint32_t id = 0xffffffffu - (uint32_t)best;
  found[2 * blockIdx.x] = (float)(width - (int)id);
  found[2 * blockIdx.x + 1] = best == ~0ull ? NAN : 0.0f;
}

} // namespace glm

#define ATTEND(NAME, T, C)                                                                                                   \
  extern "C" __global__ void __launch_bounds__(glm::ATTENDING)                                                               \
      glm_attend_##NAME(const T *projected, const T *bias, const glm::Cached *pools, const glm::Row *rows, T *out,           \
                        int heads, float factor) {                                                                           \
    glm::attend<T, C>(projected, bias, pools, rows, out, heads, factor);                                                     \
  }

// `attend` is named by the type of the model and that of the cache.
#define KERNELS(NAME, T)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(1024)                                                                         \
      glm_embed_norm_##NAME(const glm::Row *rows, const T *words, const T *positions, const T *block_positions,              \
                            const float *scale, const float *shift, float *x, T *out, int width, float epsilon) {            \
    glm::embed_norm(rows, words, positions, block_positions, scale, shift, x, out, width, epsilon);                          \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(1024)                                                                         \
      glm_add_norm_##NAME(float *x, const T *product, const T *bias, const float *scale, const float *shift, T *out,         \
                          int width, float epsilon) {                                                                        \
    glm::add_norm(x, product, bias, scale, shift, out, width, epsilon);                                                      \
  }                                                                                                                          \
  ATTEND(NAME##_f16, T, __half)                                                                                              \
  ATTEND(NAME##_bf16, T, __nv_bfloat16)                                                                                      \
  ATTEND(NAME##_f32, T, float)                                                                                               \
  extern "C" __global__ void glm_bias_gelu_##NAME(T *product, const T *bias, int width, unsigned packs) {                    \
    glm::bias_gelu(product, bias, width, packs);                                                                             \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(1024)                                                                         \
      glm_likeliest_##NAME(const T *logits, float *found, int width) {                                                       \
    glm::likeliest(logits, found, width);                                                                                    \
  }

KERNELS(f16, __half)
KERNELS(bf16, __nv_bfloat16)
KERNELS(f32, float)
