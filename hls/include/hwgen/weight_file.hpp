// The weight file, for the C simulation and the host driver (not synthesized): a header of 64 bytes and the image.
//
//     0 magic "HWGENHLS"    8 version u32    12 lanes u32    16 bytes of the image u64    24 CRC-32 of the image u32
#ifndef HWGEN_WEIGHT_FILE_HPP
#define HWGEN_WEIGHT_FILE_HPP

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "crc32.h"

namespace hwgen {

constexpr std::size_t WEIGHT_HEADER_BYTES = 64;
constexpr std::uint64_t WEIGHT_VERSION = 1;

/// Little-endian number of `count` bytes.
inline std::uint64_t little_endian(const unsigned char *bytes, unsigned count)
{
    std::uint64_t value = 0;
    for (unsigned i = 0; i < count; ++i) {
        value |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
    }
    return value;
}

/// A whole file; false when it cannot be read.
inline bool read_file(const std::string &path, std::vector<unsigned char> &bytes)
{
    std::FILE *file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) {
        return false;
    }
    bytes.clear();
    unsigned char buffer[65536];
    for (std::size_t count = std::fread(buffer, 1, sizeof buffer, file); count > 0;
         count = std::fread(buffer, 1, sizeof buffer, file)) {
        bytes.insert(bytes.end(), buffer, buffer + count);
    }
    const bool good = std::ferror(file) == 0;
    (void)std::fclose(file);
    return good;
}

/// What an accelerator was made for.
struct WantedWeights {
    std::uint32_t lanes;
    std::uint64_t bytes;
    std::uint32_t digest;
};

/// The image of a weight file -> `image`. Returns what is wrong with it, or an empty text.
inline std::string read_weights(const std::string &path, const WantedWeights &wanted, std::vector<unsigned char> &image)
{
    std::vector<unsigned char> bytes;
    if (!read_file(path, bytes)) {
        return path + ": cannot be read";
    }
    if (bytes.size() < WEIGHT_HEADER_BYTES || std::memcmp(bytes.data(), "HWGENHLS", 8) != 0) {
        return path + ": is no weight file of hwgen";
    }
    if (little_endian(&bytes[8], 4) != WEIGHT_VERSION) {
        return path + ": has version " + std::to_string(little_endian(&bytes[8], 4)) + ", this program reads " +
               std::to_string(WEIGHT_VERSION);
    }
    if (bytes.size() != WEIGHT_HEADER_BYTES + little_endian(&bytes[16], 8)) {
        return path + ": holds " + std::to_string(bytes.size() - WEIGHT_HEADER_BYTES) + " bytes of weights, its header says " +
               std::to_string(little_endian(&bytes[16], 8));
    }
    if (little_endian(&bytes[12], 4) != wanted.lanes || bytes.size() - WEIGHT_HEADER_BYTES != wanted.bytes) {
        return path + ": holds " + std::to_string(bytes.size() - WEIGHT_HEADER_BYTES) + " bytes for " +
               std::to_string(little_endian(&bytes[12], 4)) + " lanes, this accelerator needs " + std::to_string(wanted.bytes) +
               " for " + std::to_string(wanted.lanes);
    }
    const std::uint32_t found = hwgen_crc32(&bytes[WEIGHT_HEADER_BYTES], bytes.size() - WEIGHT_HEADER_BYTES);
    if (found != little_endian(&bytes[24], 4)) {
        return path + ": is damaged, its digest does not fit";
    }
    if (found != wanted.digest) {
        return path + ": holds the weights of another network or another compilation";
    }
    image.assign(bytes.begin() + static_cast<std::ptrdiff_t>(WEIGHT_HEADER_BYTES), bytes.end());
    return std::string();
}

}  // namespace hwgen

#endif
