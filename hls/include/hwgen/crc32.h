/* CRC-32 as in zip files and Ethernet: what programs and weight images are checked with. C99 and C++; not synthesized. The same
 * function in Python: hwgen/checksum.py.
 */
#ifndef HWGEN_CRC32_H
#define HWGEN_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Of `count` bytes; half a byte at a time. */
static inline uint32_t hwgen_crc32(const uint8_t *bytes, size_t count)
{
    static const uint32_t table[16] = {0x00000000U, 0x1DB71064U, 0x3B6E20C8U, 0x26D930ACU, 0x76DC4190U, 0x6B6B51F4U,
                                       0x4DB26158U, 0x5005713CU, 0xEDB88320U, 0xF00F9344U, 0xD6D6A3E8U, 0xCB61B38CU,
                                       0x9B64C2B0U, 0x86D3D2D4U, 0xA00AE278U, 0xBDBDF21CU};
    uint32_t crc = 0xFFFFFFFFU;
    for (size_t i = 0; i < count; ++i) {
        crc ^= bytes[i];
        crc = table[crc & 15U] ^ (crc >> 4);
        crc = table[crc & 15U] ^ (crc >> 4);
    }
    return ~crc;
}

#endif
