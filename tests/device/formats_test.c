/* Reads with docs/device/fuota_formats.h what the Rust side has made, and prints it for the test to compare.
 *
 * formats_test delta|mcuboot FILE, or: formats_test descriptor HEX (8 digits)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuota_formats.h"

_Static_assert(_Alignof(struct fuota_delta_wire) == 1, "can lie anywhere");
_Static_assert(_Alignof(struct fuota_mcuboot_wire) == 1, "can lie anywhere");
_Static_assert(offsetof(struct fuota_delta_wire, header_len) == 6, "header_len");
_Static_assert(offsetof(struct fuota_delta_wire, base_len) == 8, "base_len");
_Static_assert(offsetof(struct fuota_delta_wire, target_len) == 12, "target_len");
_Static_assert(offsetof(struct fuota_delta_wire, target_version) == 16, "target_version");
_Static_assert(offsetof(struct fuota_delta_wire, patch_len) == 20, "patch_len");
_Static_assert(offsetof(struct fuota_delta_wire, base_sha256) == 24, "base_sha256");
_Static_assert(offsetof(struct fuota_delta_wire, target_sha256) == 56, "target_sha256");
_Static_assert(offsetof(struct fuota_mcuboot_wire, img_size) == 12, "img_size");
_Static_assert(offsetof(struct fuota_mcuboot_wire, version_major) == 20, "version_major");

static uint8_t bytes[1 << 20];

static void print_hex(const char *name, const uint8_t *digest)
{
    printf("%s ", name);
    for (int i = 0; i < 32; i++) {
        printf("%02x", digest[i]);
    }
    printf("\n");
}

static int delta(size_t len)
{
    struct fuota_delta_header header;
    int error = fuota_delta_read(bytes, len, &header);
    if (error != FUOTA_OK) {
        printf("error %d\n", error);
        return 0;
    }
    printf("base_len %" PRIu32 "\ntarget_len %" PRIu32 "\n", header.base_len, header.target_len);
    printf("target_version %" PRIu32 "\npatch_len %" PRIu32 "\n", header.target_version, header.patch_len);
    print_hex("base_sha256", header.base_sha256);
    print_hex("target_sha256", header.target_sha256);
    printf("patch_at %zu\n", (size_t)(header.patch - bytes));
    printf("own_base %d\n", fuota_delta_check_base(&header, header.base_len, header.base_sha256));
    printf("other_base %d\n", fuota_delta_check_base(&header, header.base_len, header.target_sha256));
    return 0;
}

static int mcuboot(size_t len)
{
    struct fuota_mcuboot_header header;
    size_t image_len = 0;
    int error = fuota_mcuboot_read(bytes, len, &header);
    if (error == FUOTA_OK) {
        error = fuota_mcuboot_len(bytes, len, &image_len);
    }
    if (error != FUOTA_OK) {
        printf("error %d\n", error);
        return 0;
    }
    printf("version %" PRIu32 "\nbuild %" PRIu32 "\n", fuota_mcuboot_version(&header), header.build);
    printf("hdr_size %u\nimg_size %" PRIu32 "\nlen %zu\n", header.hdr_size, header.img_size, image_len);
    return 0;
}

static int descriptor(const char *digits)
{
    uint32_t value = (uint32_t)strtoul(digits, NULL, 16);
    const uint8_t wire[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
    uint8_t component = 0;
    uint8_t content = 0;
    int error = fuota_descriptor_component(wire, &component, &content);
    printf("version %" PRIu32 "\nerror %d\n", fuota_descriptor_version(wire), error);
    if (error == FUOTA_OK) {
        printf("component %u\ncontent %u\n", component, content);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        return 2;
    }
    if (strcmp(argv[1], "descriptor") == 0) {
        return descriptor(argv[2]);
    }
    FILE *file = fopen(argv[2], "rb");
    if (file == NULL) {
        return 2;
    }
    size_t len = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    return strcmp(argv[1], "delta") == 0 ? delta(len) : mcuboot(len);
}
