/* Integer matmul with dequantization for x86 processors with AMX-INT8, on one thread; cpu.py compiles and calls it,
   behind rows.c.

   The instruction multiplies tiles of 16 rows x 64 bytes and 64 bytes x 16 columns, both signed, and adds to 16 x 16
   sums. A block is 32 rows x 32 columns: four tiles of sums, two of rows and two of weights fill all eight, and every
   tile that is loaded is used twice. Rows are copied once into the order in which tiles read them, or each tile would
   touch 16 pages. A panel of 7168 x 32 bytes stays in the second-level cache for all rows.
*/
#include <sys/syscall.h>
#include <unistd.h>

enum { TILE = 16, BLOCK_ROWS = 2 * TILE, PANEL_COLUMNS = 2 * TILE, STEP = 64, TILE_BYTES = TILE * STEP };
enum { STEP_BYTES = PANEL_COLUMNS * STEP, LINE_BYTES = 64, STEP_LINES = STEP_BYTES / LINE_BYTES, AHEAD_STEPS = 16 };

/* Linux gives a process the tiles' registers only if asked (arch/x86/include/uapi/asm/prctl.h). */
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* Intel, "Instruction Set Extensions Programming Reference", table 3-1. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

typedef struct {
    const int8_t *rows; /* as `pack_rows` left them */
    const int8_t *panel;
    const float *channel_scale;
    const float *row_scale;
    float *out;
    long steps;
    long out_stride;
    long row_count;    /* at most BLOCK_ROWS */
    long column_count; /* at most PANEL_COLUMNS */
} Block;

/* GCC's intrinsics do not say what memory tiles are loaded from: what was written before must not be left for later. */
static inline void finish_writing(const void *memory) { __asm__ volatile("" ::"r"(memory) : "memory"); }

int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("amx-int8") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

long scratch_bytes(long row_count, long inner_size) {
    return (row_count + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS * inner_size;
}

/* Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights; with their shapes, all are set to zero. */
static void configure_tiles(long row_count) {
    const uint8_t first = row_count < TILE ? row_count : TILE;
    const uint8_t second = row_count > TILE ? row_count - TILE : 1;
    TileConfig config = {.palette = 1, .rows = {first, first, second, second, first, second, TILE, TILE}};
    for (int tile = 0; tile < 8; tile++) config.row_bytes[tile] = STEP;
    finish_writing(&config);
    _tile_loadconfig(&config);
}

/* The processor's own prefetching is not far enough ahead; whole panels ahead, the loads of this one would wait. Past
   the last panel a prefetch does nothing. */
static inline void prefetch(const int8_t *weights) {
    for (int line = 0; line < STEP_LINES; line++)
        _mm_prefetch(weights + AHEAD_STEPS * STEP_BYTES + line * LINE_BYTES, _MM_HINT_T1);
}

static void store(const Block *block, const int32_t sums[BLOCK_ROWS][PANEL_COLUMNS]) {
    for (long row = 0; row < block->row_count; row++)
        for (long column = 0; column < block->column_count; column += LANES)
            store_dequantized(_mm512_loadu_si512(sums[row] + column), block->channel_scale + column,
                              block->row_scale[row], block->out + row * block->out_stride + column,
                              present_lanes(block->column_count - column));
}

static void multiply_block(const Block *block) {
    configure_tiles(block->row_count);
    int32_t sums[BLOCK_ROWS][PANEL_COLUMNS];
    const int8_t *rows = block->rows, *weights = block->panel;
    const int two_tiles = block->row_count > TILE;
    for (long step = 0; step < block->steps; step++, rows += 2 * TILE_BYTES, weights += STEP_BYTES) {
        prefetch(weights);
        _tile_loadd(4, rows, STEP);
        _tile_loadd(6, weights, 2 * STEP);
        _tile_loadd(7, weights + STEP, 2 * STEP);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        if (two_tiles) {
            _tile_loadd(5, rows + TILE_BYTES, STEP);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], sizeof sums[0]);
    _tile_stored(1, sums[0] + TILE, sizeof sums[0]);
    if (two_tiles) {
        _tile_stored(2, sums[TILE], sizeof sums[0]);
        _tile_stored(3, sums[TILE] + TILE, sizeof sums[0]);
    }
    store(block, sums);
}

/* Of each block of 32 rows, 64 bytes of every row follow each other. */
static void pack_rows(const int8_t *rows, int8_t *packed, long row_count, long inner_size) {
    for (long row = 0; row < row_count; row++) {
        int8_t *const target = packed + row / BLOCK_ROWS * BLOCK_ROWS * inner_size + row % BLOCK_ROWS * STEP;
        for (long step = 0; step < inner_size / STEP; step++)
            memcpy(target + step * BLOCK_ROWS * STEP, rows + row * inner_size + step * STEP, STEP);
    }
}

/* out = (rows @ weights) * channel_scale * row_scale; inner_size is a multiple of 64. */
void matmul_dequantize(const int8_t *rows, const int8_t *panels, const float *channel_scale, const float *row_scale,
                       int8_t *scratch, float *out, long row_count, long inner_size, long column_count) {
    pack_rows(rows, scratch, row_count, inner_size);
    finish_writing(scratch);
    for (long column = 0; column < column_count; column += PANEL_COLUMNS, panels += PANEL_COLUMNS * inner_size) {
        const long columns_left = column_count - column;
        for (long row = 0; row < row_count; row += BLOCK_ROWS) {
            const long rows_left = row_count - row;
            const Block block = {
                .rows = scratch + row * inner_size,
                .panel = panels,
                .channel_scale = channel_scale + column,
                .row_scale = row_scale + row,
                .out = out + row * column_count + column,
                .steps = inner_size / STEP,
                .out_stride = column_count,
                .row_count = rows_left < BLOCK_ROWS ? rows_left : BLOCK_ROWS,
                .column_count = columns_left < PANEL_COLUMNS ? columns_left : PANEL_COLUMNS,
            };
            multiply_block(&block);
        }
    }
    _tile_release();
}
