/* Applies a delta in C as a device does: the wrapper read with fuota_formats.h, heatshrink unpacked by the decoder of its
 * own project, the patch taken byte by byte and front to back, the target written front to back.
 *
 * apply_test BASE DELTA TARGET; says how much memory the decoding took.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fuota_formats.h"
#include "heatshrink_decoder.h"

enum { PLAIN = 0, CRLE = 2, HEATSHRINK = 4 };

struct reader {
    FILE *delta;
    uint32_t patch_left; /* bytes of the patch not read yet */
    int compression;
    heatshrink_decoder *heatshrink;
    uint32_t run_left; /* run-length encoding: bytes left of the segment */
    int run_byte;      /* the byte to repeat, or -1 for scattered bytes */
};

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static uint8_t patch_byte(struct reader *r)
{
    int byte = r->patch_left > 0 ? fgetc(r->delta) : EOF;
    if (byte == EOF) {
        fail("patch is truncated");
    }
    r->patch_left--;
    return (uint8_t)byte;
}

static uint32_t run_length(struct reader *r)
{
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 28; shift += 7) {
        uint8_t byte = patch_byte(r);
        value |= (uint32_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return value;
        }
    }
    fail("length is too large");
    return 0;
}

static uint8_t next_byte(struct reader *r)
{
    uint8_t byte = 0;
    size_t count = 0;
    switch (r->compression) {
    case HEATSHRINK:
        for (;;) {
            if (heatshrink_decoder_poll(r->heatshrink, &byte, 1, &count) < 0) {
                fail("heatshrink poll");
            }
            if (count == 1) {
                return byte;
            }
            byte = patch_byte(r);
            if (heatshrink_decoder_sink(r->heatshrink, &byte, 1, &count) != HSDR_SINK_OK || count != 1) {
                fail("heatshrink sink");
            }
        }
    case CRLE:
        while (r->run_left == 0) {
            uint8_t kind = patch_byte(r);
            r->run_left = run_length(r);
            if (kind > 1) {
                fail("segment kind");
            }
            r->run_byte = kind == 1 ? patch_byte(r) : -1;
        }
        r->run_left--;
        return r->run_byte >= 0 ? (uint8_t)r->run_byte : patch_byte(r);
    default:
        return patch_byte(r);
    }
}

static int32_t size(struct reader *r, uint8_t (*next)(struct reader *))
{
    uint8_t byte = next(r);
    int negative = byte & 0x40;
    int32_t value = byte & 0x3f;
    for (unsigned shift = 6; (byte & 0x80) != 0; shift += 7) {
        byte = next(r);
        if (shift > 20 && byte > 0x0f) {
            fail("size is too large");
        }
        value |= (int32_t)(byte & 0x7f) << shift;
    }
    return negative ? -value : value;
}

static void open_patch(struct reader *r, uint32_t target_len)
{
    uint8_t first = patch_byte(r);
    r->compression = first & 0x0f;
    if (first >> 4 != 0 || size(r, patch_byte) != (int32_t)target_len) {
        fail("patch header");
    }
    if (r->compression == HEATSHRINK) {
        uint8_t bits = patch_byte(r);
        r->heatshrink = heatshrink_decoder_alloc(16, (uint8_t)((bits >> 4) + 4), (uint8_t)((bits & 0x0f) + 3));
        if (r->heatshrink == NULL) {
            fail("heatshrink settings");
        }
    }
    if (size(r, next_byte) != 0) {
        fail("patch has a data format");
    }
}

static void apply(struct reader *r, FILE *base, FILE *target, uint32_t target_len)
{
    uint32_t made = 0;
    while (made < target_len) {
        for (int is_diff = 1; is_diff >= 0; is_diff--) {
            int32_t left = size(r, next_byte);
            if (left < 0 || (uint32_t)left > target_len - made) {
                fail("patch makes too much");
            }
            for (made += (uint32_t)left; left > 0; left--) {
                int old = is_diff ? fgetc(base) : 0;
                if (old == EOF) {
                    fail("patch reads behind the base");
                }
                fputc((old + next_byte(r)) & 0xff, target);
            }
        }
        if (fseek(base, size(r, next_byte), SEEK_CUR) != 0) {
            fail("patch reads before the base");
        }
    }
    if (r->patch_left != 0) {
        fail("patch has bytes after its end");
    }
    if (r->heatshrink != NULL && heatshrink_decoder_finish(r->heatshrink) != HSDR_FINISH_DONE) {
        fail("heatshrink finish");
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        return 2;
    }
    FILE *base = fopen(argv[1], "rb");
    struct reader r = {.delta = fopen(argv[2], "rb"), .run_byte = -1};
    FILE *target = fopen(argv[3], "wb");
    uint8_t bytes[FUOTA_DELTA_HEADER_LEN];
    if (base == NULL || r.delta == NULL || target == NULL) {
        fail("cannot open");
    }
    struct fuota_delta_header header;
    size_t len = fread(bytes, 1, sizeof bytes, r.delta);
    if (fuota_delta_read(bytes, len, &header) != FUOTA_OK) {
        fail("delta header");
    }
    r.patch_left = header.patch_len;
    open_patch(&r, header.target_len);
    apply(&r, base, target, header.target_len);
    size_t memory = sizeof r;
    if (r.heatshrink != NULL) {
        memory += sizeof *r.heatshrink + ((size_t)1 << HEATSHRINK_DECODER_WINDOW_BITS(r.heatshrink)) + 16;
        heatshrink_decoder_free(r.heatshrink);
    }
    printf("%zu\n", memory);
    return fclose(target) == 0 ? 0 : 1;
}
