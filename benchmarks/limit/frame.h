/* The bytes of the wire in C: big-endian words, and the header of a frame.

   Strategy: C keeps no second copy of the protocol. Tags, sizes, offsets and codes come from "wire.h", which benchmarks/build.py
   writes from the declarations of twisted_im.wire each time before it compiles. */

#ifndef FRAME_H
#define FRAME_H

#include <stdint.h>
#include <string.h>

#include "wire.h"

#define READ_SIZE (64 * 1024) /* one recv for each readiness event takes at most this */
#define ID_SIZE 16            /* a device id, a client id, an epoch */

static inline uint32_t get32(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, 4);
    return __builtin_bswap32(word);
}

static inline uint64_t get64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, 8);
    return __builtin_bswap64(word);
}

static inline void put16(uint8_t *at, uint16_t word)
{
    word = __builtin_bswap16(word);
    memcpy(at, &word, 2);
}

static inline void put32(uint8_t *at, uint32_t word)
{
    word = __builtin_bswap32(word);
    memcpy(at, &word, 4);
}

static inline void put64(uint8_t *at, uint64_t word)
{
    word = __builtin_bswap64(word);
    memcpy(at, &word, 8);
}

/* Writes a header; gives the place of the body. */
static inline uint8_t *put_header(uint8_t *at, uint32_t length, uint32_t tag, uint32_t request_id, uint32_t status)
{
    put32(at, length);
    put32(at + 4, tag);
    put32(at + 8, request_id);
    put32(at + 12, status);
    return at + HEADER_SIZE;
}

#endif
