// Recording a pass through the C functions of WebGPU: what Python would do call by call.
//
// The functions' addresses come from the library that is loaded already (wgpu-native, through Python's wgpu); no header
// of it is needed, and their signatures are those of webgpu.h. Handles belong to the caller, who keeps them alive.
#pragma once

#include <cstddef>
#include <cstdint>

namespace understudy {

struct GpuFunctions {
    void (*set_pipeline)(void* pass, void* pipeline);
    void (*set_bind_group)(void* pass, uint32_t index, void* group, size_t num_offsets, const uint32_t* offsets);
    void (*dispatch)(void* pass, uint32_t x, uint32_t y, uint32_t z);
};

// One dispatch: handles, and workgroups in x and y. A row of four 64-bit words in Python.
struct GpuCall {
    uint64_t pipeline, group, x, y;
};

// Record calls in order into an open compute pass; a pipeline that is set already is not set again.
inline void record_calls(const GpuFunctions& gpu, void* pass, const GpuCall* calls, size_t count) {
    uint64_t last = 0;
    for (const GpuCall* call = calls; call != calls + count; ++call) {
        if (call->pipeline != last) gpu.set_pipeline(pass, reinterpret_cast<void*>(call->pipeline));
        last = call->pipeline;
        gpu.set_bind_group(pass, 0, reinterpret_cast<void*>(call->group), 0, nullptr);
        gpu.dispatch(pass, static_cast<uint32_t>(call->x), static_cast<uint32_t>(call->y), 1);
    }
}

}  // namespace understudy
