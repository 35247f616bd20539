/* Integer matmul with dequantization for x86 processors with AVX512-VNNI, on one thread; cpu.py compiles and calls it,
   behind rows.c.

   The instruction multiplies four unsigned bytes by four signed bytes and adds them to an int32 lane. The weights are
   the unsigned side, shifted by 128 when they are packed: 128 times the sum of a row is then subtracted once a row,
   and wrap-around keeps the difference exact. A panel is 48 columns: 8 rows x 3 vectors of sums, 3 of weights and one
   broadcast fill 28 of the 32 registers. A panel is multiplied in pieces of at most 512 x 4 inputs, whose sums wait in
   memory for the next: a piece is still in the second-level cache for the last of the rows, and the next one is
   fetched meanwhile.
*/
enum { VECTORS = 3, PANEL_COLUMNS = LANES * VECTORS, BLOCK_ROWS = 8, VECTOR_BYTES = 64, QUAD_BYTES = 4 * PANEL_COLUMNS };

/* In steps of four inputs. A single block of rows reads every piece once, so that it fetches just ahead of itself. */
enum { PIECE_QUADS = 512, NEAR_QUADS = 32 };

/* Sums live in registers only if the compiler unrolls every loop over rows and vectors. */
#define FOR_EACH_ROW _Pragma("GCC unroll 8") for (int row = 0; row < row_count; row++)
#define FOR_EACH_VECTOR _Pragma("GCC unroll 3") for (int vector = 0; vector < VECTORS; vector++)

/* Up to 8 rows of a piece. */
typedef struct {
    const int8_t *rows;
    const uint8_t *weights;
    int32_t *sums; /* of a row PANEL_COLUMNS */
    long inner_size;
    long quads;
    const uint8_t *prefetched; /* this block's share of what comes next */
    long prefetch_step;
} Block;

int supported(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"); }

long scratch_bytes(long row_count, long inner_size) {
    return row_count * (PANEL_COLUMNS + 1) * sizeof(int32_t);
}

static inline int32_t four_bytes(const int8_t *at) {
    int32_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

static inline __attribute__((always_inline)) void multiply_rows(const Block *block, const int row_count) {
    __m512i sums[BLOCK_ROWS][VECTORS];
    int32_t *const kept = block->sums;
    FOR_EACH_ROW FOR_EACH_VECTOR sums[row][vector] = _mm512_loadu_si512(kept + row * PANEL_COLUMNS + vector * LANES);
    const int8_t *const rows = block->rows;
    const uint8_t *const panel = block->weights;
    const uint8_t *const prefetched = block->prefetched;
    const long prefetch_step = block->prefetch_step, inner_size = block->inner_size, quads = block->quads;
    for (long quad = 0; quad < quads; quad++) {
        __m512i weights[VECTORS];
        FOR_EACH_VECTOR weights[vector] = _mm512_loadu_si512(panel + (quad * VECTORS + vector) * VECTOR_BYTES);
        FOR_EACH_VECTOR _mm_prefetch(prefetched + (quad * VECTORS + vector) * prefetch_step, _MM_HINT_T0);
        FOR_EACH_ROW {
            const __m512i inputs = _mm512_set1_epi32(four_bytes(rows + row * inner_size + 4 * quad));
            FOR_EACH_VECTOR sums[row][vector] = _mm512_dpbusd_epi32(sums[row][vector], weights[vector], inputs);
        }
    }
    FOR_EACH_ROW FOR_EACH_VECTOR _mm512_storeu_si512(kept + row * PANEL_COLUMNS + vector * LANES, sums[row][vector]);
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

/* Also fetches what of `out` the panel is going to write: each row has it on another page. */
static void start_sums(const int32_t *row_offsets, int32_t *sums, const float *out, long row_count, long out_stride) {
    for (long row = 0; row < row_count; row++)
        for (long column = 0; column < PANEL_COLUMNS; column += LANES) {
            _mm512_storeu_si512(sums + row * PANEL_COLUMNS + column, _mm512_set1_epi32(-row_offsets[row]));
            __builtin_prefetch(out + row * out_stride + column, 1);
        }
}

/* The blocks of rows share the work of fetching the next piece, or the first would wait for all of it. Past the last
   panel a prefetch does nothing. */
static void multiply_piece(const int8_t *rows, const uint8_t *weights, int32_t *sums, long row_count, long inner_size,
                           long quads) {
    const long block_count = (row_count + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const long prefetch_step = VECTOR_BYTES / block_count;
    const uint8_t *const next = weights + (block_count == 1 ? NEAR_QUADS : quads) * QUAD_BYTES;
    for (long row = 0; row < row_count; row += BLOCK_ROWS) {
        const long rows_left = row_count - row;
        const Block block = {
            .rows = rows + row * inner_size,
            .weights = weights,
            .sums = sums + row * PANEL_COLUMNS,
            .inner_size = inner_size,
            .quads = quads,
            .prefetched = next + row / BLOCK_ROWS * quads * VECTORS * prefetch_step,
            .prefetch_step = prefetch_step,
        };
        multiply_block(&block, rows_left < BLOCK_ROWS ? rows_left : BLOCK_ROWS);
    }
}

/* out = (rows @ weights) * channel_scale * row_scale; inner_size is a multiple of 4. */
void matmul_dequantize(const int8_t *rows, const uint8_t *panels, const float *channel_scale, const float *row_scale,
                       int32_t *scratch, float *out, long row_count, long inner_size, long column_count) {
    int32_t *const sums = scratch, *const row_offsets = sums + row_count * PANEL_COLUMNS;
    sum_rows(rows, row_count, inner_size, row_offsets);
    const long quads = inner_size / 4, piece_count = (quads + PIECE_QUADS - 1) / PIECE_QUADS;
    for (long column = 0; column < column_count; column += PANEL_COLUMNS) {
        start_sums(row_offsets, sums, out + column, row_count, column_count);
        for (long piece = 0; piece < piece_count; piece++) {
            const long first = quads * piece / piece_count, end = quads * (piece + 1) / piece_count;
            multiply_piece(rows + 4 * first, panels, sums, row_count, inner_size, end - first);
            panels += (end - first) * QUAD_BYTES;
        }
        for (long row = 0; row < row_count; row++)
            for (long lane = 0; lane < PANEL_COLUMNS && column + lane < column_count; lane += LANES)
                store_dequantized(_mm512_loadu_si512(sums + row * PANEL_COLUMNS + lane), channel_scale + column + lane,
                                  row_scale[row], out + row * column_count + column + lane,
                                  present_lanes(column_count - column - lane));
    }
}
