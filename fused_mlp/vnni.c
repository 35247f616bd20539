/* Integer matmul with dequantization for x86 processors with AVX512-VNNI, on one thread; cpu.py compiles and calls it,
   behind rows.c.

   The instruction multiplies four unsigned bytes by four signed bytes and adds them to an int32 lane. The weights are
   the unsigned side, shifted by 128 when they are packed: 128 times the sum of a row is then subtracted once a row,
   and wrap-around keeps the difference exact. A panel is 48 columns: 8 rows x 3 vectors of sums, 3 of weights and one
   broadcast fill 28 of the 32 registers, and a panel of 7168 x 48 bytes stays in the second-level cache for all rows.
*/
enum { VECTORS = 3, PANEL_COLUMNS = LANES * VECTORS, BLOCK_ROWS = 8, VECTOR_BYTES = 64 };

/* Sums live in registers only if the compiler unrolls every loop over rows and vectors. */
#define FOR_EACH_ROW _Pragma("GCC unroll 8") for (int row = 0; row < row_count; row++)
#define FOR_EACH_VECTOR _Pragma("GCC unroll 3") for (int vector = 0; vector < VECTORS; vector++)

typedef struct {
    const int8_t *rows;
    const uint8_t *panel;
    const float *channel_scale;
    const float *row_scale;
    const int32_t *row_offset;
    float *out;
    long inner_size; /* a multiple of 4 */
    long out_stride;
    int column_count; /* at most PANEL_COLUMNS */
    const uint8_t *prefetched; /* this block's share of the next panel */
    long prefetch_step;
} Block;

int supported(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); }

long scratch_bytes(long row_count, long inner_size) { return row_count * sizeof(int32_t); }

static inline int32_t four_bytes(const int8_t *at) {
    int32_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

static inline __attribute__((always_inline)) void multiply_rows(const Block *block, const int row_count) {
    __m512i sums[BLOCK_ROWS][VECTORS];
    FOR_EACH_ROW FOR_EACH_VECTOR sums[row][vector] = _mm512_set1_epi32(-block->row_offset[row]);
    const int8_t *const rows = block->rows;
    const uint8_t *const panel = block->panel;
    const uint8_t *const prefetched = block->prefetched;
    const long prefetch_step = block->prefetch_step, quads = block->inner_size / 4;
    for (long quad = 0; quad < quads; quad++) {
        __m512i weights[VECTORS];
        FOR_EACH_VECTOR weights[vector] = _mm512_loadu_si512(panel + (quad * VECTORS + vector) * VECTOR_BYTES);
        FOR_EACH_VECTOR _mm_prefetch(prefetched + (quad * VECTORS + vector) * prefetch_step, _MM_HINT_T1);
        FOR_EACH_ROW {
            const __m512i inputs = _mm512_set1_epi32(four_bytes(rows + 4 * (row * quads + quad)));
            FOR_EACH_VECTOR sums[row][vector] = _mm512_dpbusd_epi32(sums[row][vector], weights[vector], inputs);
        }
    }
    FOR_EACH_ROW FOR_EACH_VECTOR store_dequantized(
        sums[row][vector], block->channel_scale + vector * LANES, block->row_scale[row],
        block->out + row * block->out_stride + vector * LANES, present_lanes(block->column_count - vector * LANES));
}

/* A constant row count is what lets the compiler unroll. */
static void multiply_block(const Block *block, const long row_count) {
    switch (row_count) {
    case 1: multiply_rows(block, 1); break;
    case 2: multiply_rows(block, 2); break;
    case 3: multiply_rows(block, 3); break;
    case 4: multiply_rows(block, 4); break;
    case 5: multiply_rows(block, 5); break;
    case 6: multiply_rows(block, 6); break;
    case 7: multiply_rows(block, 7); break;
    default: multiply_rows(block, 8);
    }
}

static void sum_rows(const int8_t *rows, long row_count, long inner_size, int32_t *row_offsets) {
    for (long row = 0; row < row_count; row++) {
        int32_t sum = 0;
        for (long inner = 0; inner < inner_size; inner++) sum += rows[row * inner_size + inner];
        row_offsets[row] = 128 * sum;
    }
}

/* out = (rows @ weights) * channel_scale * row_scale, with row_offsets as scratch for one int32 a row; inner_size
   is a multiple of 4. */
void matmul_dequantize(const int8_t *rows, const uint8_t *panels, const float *channel_scale, const float *row_scale,
                       int32_t *row_offsets, float *out, long row_count, long inner_size, long column_count) {
    sum_rows(rows, row_count, inner_size, row_offsets);
    /* The blocks of rows share the work of fetching the next panel, or the first would wait for all of it. Past the
       last panel a prefetch does nothing. */
    const long block_count = (row_count + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const long prefetch_step = VECTOR_BYTES / block_count;
    const long prefetched_bytes = inner_size / 4 * VECTORS * prefetch_step;
    for (long column = 0; column < column_count; column += PANEL_COLUMNS, panels += PANEL_COLUMNS * inner_size) {
        const long columns_left = column_count - column;
        for (long row = 0; row < row_count; row += BLOCK_ROWS) {
            const long rows_left = row_count - row;
            const Block block = {
                .rows = rows + row * inner_size,
                .panel = panels,
                .channel_scale = channel_scale + column,
                .row_scale = row_scale + row,
                .row_offset = row_offsets + row,
                .out = out + row * column_count + column,
                .inner_size = inner_size,
                .out_stride = column_count,
                .prefetched = panels + PANEL_COLUMNS * inner_size + row / BLOCK_ROWS * prefetched_bytes,
                .prefetch_step = prefetch_step,
                .column_count = columns_left < PANEL_COLUMNS ? (int)columns_left : PANEL_COLUMNS,
            };
            multiply_block(&block, rows_left < BLOCK_ROWS ? rows_left : BLOCK_ROWS);
        }
    }
}
