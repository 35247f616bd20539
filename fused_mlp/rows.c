/* Passes over rows, for x86 processors with AVX512, on one thread; cpu.py puts it before vnni.c or amx.c. */
#include <float.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

static inline __mmask16 present_lanes(long count) {
    return count >= LANES ? 0xffff : count > 0 ? (1 << count) - 1 : 0;
}

static inline void store_dequantized(__m512i sums, const float *channel_scale, float row_scale, float *out,
                                     __mmask16 present) {
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_maskz_loadu_ps(present, channel_scale));
    _mm512_mask_storeu_ps(out, present, _mm512_mul_ps(scaled, _mm512_set1_ps(row_scale)));
}

static float largest_magnitude(const float *values, long count) {
    /* As integers, the bits of non-negative floats keep their order and NaN is the largest: it is never lost. */
    __m512i largest_bits = _mm512_setzero_si512();
    for (long at = 0; at < count; at += LANES) {
        const __m512i bits = _mm512_maskz_loadu_epi32(present_lanes(count - at), values + at);
        largest_bits = _mm512_max_epi32(largest_bits, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const int32_t bits = _mm512_reduce_max_epi32(largest_bits);
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    return magnitude;
}

/* q and s2 of every row of h, bit for bit those of reference.quantize_rows. */
void quantize_rows(const float *h, int8_t *q, float *s2, float smallest_row_max, long row_count, long column_count) {
    for (long row = 0; row < row_count; row++, h += column_count, q += column_count) {
        const float row_max = largest_magnitude(h, column_count);
        const int quantizable = row_max >= smallest_row_max && row_max <= FLT_MAX;
        const __m512 multiplier = _mm512_set1_ps(127.0f / row_max);
        for (long at = 0; at < column_count; at += LANES) {
            const __mmask16 present = present_lanes(column_count - at);
            const __m512 steps = _mm512_mul_ps(_mm512_maskz_loadu_ps(present, h + at), multiplier);
            const __m512i rounded = _mm512_maskz_cvtps_epi32(quantizable ? present : 0, steps);
            _mm512_mask_cvtsepi32_storeu_epi8(q + at, present, rounded);
        }
        s2[row] = row_max < smallest_row_max ? 0.0f : row_max / 127.0f;
    }
}
