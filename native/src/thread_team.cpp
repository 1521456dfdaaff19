#include "understudy/thread_team.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace understudy {
namespace {

constexpr int kSpins = 4000;  // some 20 to 50 microseconds, longer than a phase of a small model

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

// Spins, then gives the core to others between looks: a member may have been moved off its core.
template <class Done> void wait_for(Done done) {
    for (int i = 0; i < kSpins; ++i) {
        if (done()) return;
        pause();
    }
    while (!done()) std::this_thread::yield();
}

}  // namespace

ThreadTeam::ThreadTeam(int size) : size_(size < 1 ? 1 : size) {
    for (int member = 1; member < size_; ++member) threads_.emplace_back([this, member] { serve(member); });
}

ThreadTeam::~ThreadTeam() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void ThreadTeam::run(const std::function<void(int)>& work) {
    done_.store(0, std::memory_order_relaxed);
    {
        std::lock_guard lock(mutex_);
        work_ = &work;
        round_.fetch_add(1, std::memory_order_release);
    }
    if (size_ > 1) wake_.notify_all();
    work(0);
    wait_for([this] { return done_.load(std::memory_order_acquire) == size_ - 1; });
}

void ThreadTeam::serve(int member) {
    uint64_t seen = 0;
    while (true) {
        for (int i = 0; i < kSpins && round_.load(std::memory_order_acquire) == seen && !stopping_; ++i) pause();
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return stopping_ || round_.load(std::memory_order_relaxed) != seen; });
            if (stopping_) return;
            seen = round_.load(std::memory_order_relaxed);
        }
        (*work_)(member);
        done_.fetch_add(1, std::memory_order_release);
    }
}

void ThreadTeam::barrier() {
    if (size_ == 1) return;
    uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        waiting_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1, std::memory_order_release);
    } else {
        wait_for([&] { return phase_.load(std::memory_order_acquire) != phase; });
    }
}

}  // namespace understudy
