#include "understudy/buffer.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace understudy {

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
#if defined(__unix__) || defined(__APPLE__)
#ifdef MAP_NORESERVE
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#endif
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (bytes >= size_t{4} << 20) madvise(found, bytes, MADV_HUGEPAGE);
#endif
    data_ = found;
#elif defined(_WIN32)
    data_ = _aligned_malloc(bytes, 64);
    if (!data_) throw std::bad_alloc();
    std::memset(data_, 0, bytes);
#endif
}

Buffer::~Buffer() {
    if (!data_) return;
#if defined(__unix__) || defined(__APPLE__)
    munmap(data_, bytes_);
#elif defined(_WIN32)
    _aligned_free(data_);
#endif
}

}  // namespace understudy
