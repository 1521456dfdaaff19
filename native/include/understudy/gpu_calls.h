// Commands through the C functions of WebGPU: what Python would do call by call.
//
// The functions' addresses come from the library that is loaded already (wgpu-native, through Python's wgpu); no header
// of it is needed, and their signatures are those of webgpu.h. Handles belong to the caller, who keeps them alive.
#pragma once

#include <cstddef>
#include <cstdint>

namespace understudy {

struct GpuFunctions {
    void* (*create_encoder)(void* device, const void* about);
    void (*copy)(void* encoder, void* source, uint64_t start, void* target, uint64_t to, uint64_t num_bytes);
    void* (*begin_pass)(void* encoder, const void* about);
    void (*set_pipeline)(void* pass, void* pipeline);
    void (*set_bind_group)(void* pass, uint32_t index, void* group, size_t num_offsets, const uint32_t* offsets);
    void (*dispatch)(void* pass, uint32_t x, uint32_t y, uint32_t z);
    void (*end_pass)(void* pass);
    void (*release_pass)(void* pass);
    void* (*finish)(void* encoder, const void* about);
    void (*release_encoder)(void* encoder);
    void (*submit)(void* queue, size_t count, void* const* commands);
    void (*release_commands)(void* commands);
    void (*write)(void* queue, void* buffer, uint64_t offset, const void* data, size_t num_bytes);
};

// One dispatch: handles, and workgroups in x and y. A row of four 64-bit words in Python.
struct GpuCall {
    uint64_t pipeline, group, x, y;
};

// A stretch of one buffer that goes into another. A row of five 64-bit words in Python.
struct GpuCopy {
    uint64_t source, start, target, to, num_bytes;
};

template <class T> struct GpuList {
    const T* data;
    size_t size;
    const T* begin() const { return data; }
    const T* end() const { return data + size; }
};

inline void* handle(uint64_t number) { return reinterpret_cast<void*>(number); }

// Record calls in order into an open compute pass; what is set already is not set again.
inline void record_calls(const GpuFunctions& gpu, void* pass, GpuList<GpuCall> calls) {
    uint64_t pipeline = 0, group = 0;
    for (const GpuCall& call : calls) {
        if (call.pipeline != pipeline) gpu.set_pipeline(pass, handle(call.pipeline));
        if (call.group != group) gpu.set_bind_group(pass, 0, handle(call.group), 0, nullptr);
        pipeline = call.pipeline;
        group = call.group;
        gpu.dispatch(pass, static_cast<uint32_t>(call.x), static_cast<uint32_t>(call.y), 1);
    }
}

inline void record_copies(const GpuFunctions& gpu, void* encoder, GpuList<GpuCopy> copies) {
    for (const GpuCopy& c : copies) gpu.copy(encoder, handle(c.source), c.start, handle(c.target), c.to, c.num_bytes);
}

// Commands, ready to be submitted once: copies, one pass of calls if there are any, copies. Null where wgpu gave none.
inline void* record_commands(const GpuFunctions& gpu, void* device, GpuList<GpuCopy> before, GpuList<GpuCall> calls,
                             GpuList<GpuCopy> after) {
    void* encoder = gpu.create_encoder(device, nullptr);
    if (!encoder) return nullptr;
    record_copies(gpu, encoder, before);
    if (calls.size) {
        void* pass = gpu.begin_pass(encoder, nullptr);
        record_calls(gpu, pass, calls);
        gpu.end_pass(pass);
        gpu.release_pass(pass);
    }
    record_copies(gpu, encoder, after);
    void* commands = gpu.finish(encoder, nullptr);
    gpu.release_encoder(encoder);
    return commands;
}

}  // namespace understudy
