/*
 * What a device receives, as structures and readers: the wrapper of delta images, the descriptor of a fragmentation
 * session, and the fields of an MCUboot image that an update agent looks at.
 *
 * C11, no dependencies, no allocation, nothing but this file. Every reader checks the length it is given and reads byte
 * by byte: the bytes may lie at any address, and the machine may have any byte order. See README.md beside this file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FUOTA_FORMATS_H
#define FUOTA_FORMATS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What readers return; 0 is success. */
#define FUOTA_OK 0
#define FUOTA_TRUNCATED (-1) /* fewer bytes than the structure or its sizes say */
#define FUOTA_MAGIC (-2)     /* not this structure */
#define FUOTA_VERSION (-3)   /* this structure, in a form this header does not know */
#define FUOTA_SIZE (-4)      /* sizes out of range or in contradiction */
#define FUOTA_OTHER_BASE (-5) /* the delta is for another image than the one at hand */

/* Numbers on the wire and in images are little-endian. */
static inline uint16_t fuota_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | (uint16_t)((uint16_t)p[1] << 8));
}

static inline uint32_t fuota_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Delta: a fixed header, then a sequential patch of detools.
 */

#define FUOTA_DELTA_MAGIC "FDLT"
#define FUOTA_DELTA_FORMAT 1u
#define FUOTA_DELTA_KIND_SEQUENTIAL 1u
#define FUOTA_DELTA_HEADER_LEN 88u
#define FUOTA_DELTA_IMAGE_LEN_MAX (4u * 1024u * 1024u)

/* The header as it is received; alignment 1, no padding. */
struct fuota_delta_wire {
    uint8_t magic[4];
    uint8_t format;
    uint8_t kind;
    uint8_t header_len[2];
    uint8_t base_len[4];
    uint8_t target_len[4];
    uint8_t target_version[4];
    uint8_t patch_len[4];
    uint8_t base_sha256[32];
    uint8_t target_sha256[32];
};

/* The same, decoded. The digests stay where they were received. */
struct fuota_delta_header {
    uint32_t base_len;
    uint32_t target_len;
    uint32_t target_version; /* as TS006 reports it; a statement, not a proof */
    uint32_t patch_len;
    const uint8_t *base_sha256;   /* 32 bytes */
    const uint8_t *target_sha256; /* 32 bytes */
    const uint8_t *patch;         /* patch_len bytes, if all of them were given */
};

/* 1 if these bytes open a delta; anything else received is an image itself. */
static inline int fuota_is_delta(const uint8_t *bytes, size_t len)
{
    return len >= 4 && memcmp(bytes, FUOTA_DELTA_MAGIC, 4) == 0;
}

/* Reads the header. `len` may end anywhere after it: the patch may still be in flash, or on its way. */
static inline int fuota_delta_read(const uint8_t *bytes, size_t len, struct fuota_delta_header *out)
{
    if (len >= 4 && memcmp(bytes, FUOTA_DELTA_MAGIC, 4) != 0) {
        return FUOTA_MAGIC;
    }
    if (len < FUOTA_DELTA_HEADER_LEN) {
        return FUOTA_TRUNCATED;
    }
    if (bytes[offsetof(struct fuota_delta_wire, format)] != FUOTA_DELTA_FORMAT
        || bytes[offsetof(struct fuota_delta_wire, kind)] != FUOTA_DELTA_KIND_SEQUENTIAL
        || fuota_le16(bytes + offsetof(struct fuota_delta_wire, header_len)) != FUOTA_DELTA_HEADER_LEN) {
        return FUOTA_VERSION;
    }
    out->base_len = fuota_le32(bytes + offsetof(struct fuota_delta_wire, base_len));
    out->target_len = fuota_le32(bytes + offsetof(struct fuota_delta_wire, target_len));
    out->target_version = fuota_le32(bytes + offsetof(struct fuota_delta_wire, target_version));
    out->patch_len = fuota_le32(bytes + offsetof(struct fuota_delta_wire, patch_len));
    out->base_sha256 = bytes + offsetof(struct fuota_delta_wire, base_sha256);
    out->target_sha256 = bytes + offsetof(struct fuota_delta_wire, target_sha256);
    out->patch = bytes + FUOTA_DELTA_HEADER_LEN;
    if (out->base_len > FUOTA_DELTA_IMAGE_LEN_MAX || out->target_len > FUOTA_DELTA_IMAGE_LEN_MAX
        || out->target_len == 0) {
        return FUOTA_SIZE;
    }
    return FUOTA_OK;
}

/* Whether the image at hand, so long and with this SHA-256, is the one the delta is for. Ask before erasing anything. */
static inline int fuota_delta_check_base(const struct fuota_delta_header *header, size_t base_len,
                                         const uint8_t base_sha256[32])
{
    if (base_len != header->base_len || memcmp(base_sha256, header->base_sha256, 32) != 0) {
        return FUOTA_OTHER_BASE;
    }
    return FUOTA_OK;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Descriptor: the four bytes of FragSessionSetupReq. Which rule made them is agreed between operator and firmware.
 */

/* Kind of content, under the rule "component". Unknown kinds are answered with "wrong descriptor". */
#define FUOTA_CONTENT_IMAGE 0u
#define FUOTA_CONTENT_DELTA 1u

/* Rule "component", as it is received. */
struct fuota_descriptor_wire {
    uint8_t component; /* index of the component in the device model, from 0 */
    uint8_t content;   /* FUOTA_CONTENT_* */
    uint8_t reserved[2]; /* 0 */
};

/* Rule "version": the number that TS006 will report of what is sent. */
static inline uint32_t fuota_descriptor_version(const uint8_t descriptor[4])
{
    return fuota_le32(descriptor);
}

/* Rule "component". */
static inline int fuota_descriptor_component(const uint8_t descriptor[4], uint8_t *component, uint8_t *content)
{
    if (descriptor[2] != 0 || descriptor[3] != 0 || descriptor[1] > FUOTA_CONTENT_DELTA) {
        return FUOTA_VERSION;
    }
    *component = descriptor[0];
    *content = descriptor[1];
    return FUOTA_OK;
}

/* ------------------------------------------------------------------------------------------------------------------
 * MCUboot: what an update agent needs of an image. Digest and signature are the boot loader's to check.
 */

#define FUOTA_MCUBOOT_MAGIC 0x96f3b83dul
#define FUOTA_MCUBOOT_HEADER_FIELDS 32u
#define FUOTA_MCUBOOT_TLV_MAGIC 0x6907u
#define FUOTA_MCUBOOT_PROTECTED_TLV_MAGIC 0x6908u

/* The defined part of the header as it lies in flash. */
struct fuota_mcuboot_wire {
    uint8_t magic[4];
    uint8_t load_addr[4];
    uint8_t hdr_size[2];
    uint8_t protected_tlv_size[2];
    uint8_t img_size[4];
    uint8_t flags[4];
    uint8_t version_major;
    uint8_t version_minor;
    uint8_t version_revision[2];
    uint8_t version_build[4];
    uint8_t reserved[4];
};

struct fuota_mcuboot_header {
    uint32_t load_addr;
    uint16_t hdr_size;
    uint16_t protected_tlv_size;
    uint32_t img_size;
    uint32_t flags;
    uint8_t major;
    uint8_t minor;
    uint16_t revision;
    uint32_t build;
};

/* Reads the header. `len` may end anywhere after it. */
static inline int fuota_mcuboot_read(const uint8_t *bytes, size_t len, struct fuota_mcuboot_header *out)
{
    if (len < FUOTA_MCUBOOT_HEADER_FIELDS) {
        return FUOTA_TRUNCATED;
    }
    if (fuota_le32(bytes) != FUOTA_MCUBOOT_MAGIC) {
        return FUOTA_MAGIC;
    }
    out->load_addr = fuota_le32(bytes + offsetof(struct fuota_mcuboot_wire, load_addr));
    out->hdr_size = fuota_le16(bytes + offsetof(struct fuota_mcuboot_wire, hdr_size));
    out->protected_tlv_size = fuota_le16(bytes + offsetof(struct fuota_mcuboot_wire, protected_tlv_size));
    out->img_size = fuota_le32(bytes + offsetof(struct fuota_mcuboot_wire, img_size));
    out->flags = fuota_le32(bytes + offsetof(struct fuota_mcuboot_wire, flags));
    out->major = bytes[offsetof(struct fuota_mcuboot_wire, version_major)];
    out->minor = bytes[offsetof(struct fuota_mcuboot_wire, version_minor)];
    out->revision = fuota_le16(bytes + offsetof(struct fuota_mcuboot_wire, version_revision));
    out->build = fuota_le32(bytes + offsetof(struct fuota_mcuboot_wire, version_build));
    return out->hdr_size < FUOTA_MCUBOOT_HEADER_FIELDS ? FUOTA_SIZE : FUOTA_OK;
}

/* The number for DevVersionAns and DevUpgradeImageAns: major, minor, revision; the build is left out. */
static inline uint32_t fuota_mcuboot_version(const struct fuota_mcuboot_header *header)
{
    return ((uint32_t)header->major << 24) | ((uint32_t)header->minor << 16) | header->revision;
}

/* Bytes of the image in a slot, from header to last TLV: the base of a delta, and what its SHA-256 is taken of. */
static inline int fuota_mcuboot_len(const uint8_t *slot, size_t slot_len, size_t *len)
{
    struct fuota_mcuboot_header header;
    int error = fuota_mcuboot_read(slot, slot_len, &header);
    if (error != FUOTA_OK) {
        return error;
    }
    size_t end = header.hdr_size;
    if (slot_len < end || slot_len - end < header.img_size) {
        return FUOTA_TRUNCATED;
    }
    end += header.img_size;
    for (int is_protected = header.protected_tlv_size != 0; is_protected >= 0; is_protected--) {
        if (slot_len - end < 4) {
            return FUOTA_TRUNCATED;
        }
        uint16_t magic = fuota_le16(slot + end);
        uint16_t size = fuota_le16(slot + end + 2);
        if (magic != (is_protected ? FUOTA_MCUBOOT_PROTECTED_TLV_MAGIC : FUOTA_MCUBOOT_TLV_MAGIC)) {
            return FUOTA_MAGIC;
        }
        if (size < 4 || (is_protected && size != header.protected_tlv_size)) {
            return FUOTA_SIZE;
        }
        if (slot_len - end < size) {
            return FUOTA_TRUNCATED;
        }
        end += size;
    }
    *len = end;
    return FUOTA_OK;
}

#if !defined(__cplusplus)
_Static_assert(sizeof(struct fuota_delta_wire) == FUOTA_DELTA_HEADER_LEN, "delta header is 88 bytes");
_Static_assert(sizeof(struct fuota_descriptor_wire) == 4, "descriptor is 4 bytes");
_Static_assert(sizeof(struct fuota_mcuboot_wire) == FUOTA_MCUBOOT_HEADER_FIELDS, "image header is 32 bytes");
#endif

#ifdef __cplusplus
}
#endif

#endif
