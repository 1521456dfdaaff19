// Zeroed memory, aligned to 64 bytes, on huge pages where the system gives them; touched pages only take memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace understudy {

class Buffer {
public:
    Buffer() = default;
    // Throws std::bad_alloc.
    explicit Buffer(size_t bytes);
    ~Buffer();
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    uint8_t* data() const { return static_cast<uint8_t*>(data_); }
    template <class T> T* as() const { return static_cast<T*>(data_); }
    size_t bytes() const { return bytes_; }
    // Makes room for at least so many bytes; what was in it is lost when it grows.
    void reserve(size_t bytes) {
        if (bytes > bytes_) *this = Buffer(bytes + bytes / 2);
    }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace understudy
