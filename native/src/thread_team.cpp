#include "understudy/thread_team.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace understudy {
namespace {

constexpr int kMostPatience = 64;
constexpr int kSettled = 32;  // calls without a wait for the others, after which the cores seem to be ours
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

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

ThreadTeam::ThreadTeam(int size) : size_(size < 1 ? 1 : size), active_(size_), usual_(size_) {
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

void ThreadTeam::run(const std::function<void(int)>& work) { run_on(size_, work); }

void ThreadTeam::run_together(const std::function<void(int)>& work) {
    bool is_trial = usual_ < size_ && --num_until_trial_ <= 0;
    int num_members = is_trial ? std::min(2 * usual_, size_) : usual_;
    int64_t began = now_ns();
    run_on(num_members, work);
    if (num_members > 1 && 2 * waited_ns_ > now_ns() - began) {
        usual_ = num_members / 2;
        patience_ = std::min(2 * patience_, kMostPatience);
        num_until_trial_ = patience_;
        num_good_ = 0;
    } else if (is_trial) {
        usual_ = num_members;
        num_until_trial_ = patience_;
    } else if (num_members > 1 && ++num_good_ == kSettled) {
        patience_ = 1;
    }
}

void ThreadTeam::run_on(int num_members, const std::function<void(int)>& work) {
    waited_ns_ = 0;
    done_.store(0, std::memory_order_relaxed);
    {
        std::lock_guard lock(mutex_);
        work_ = &work;
        active_ = num_members;
        round_.fetch_add(1, std::memory_order_release);
    }
    if (num_members > 1) wake_.notify_all();
    work(0);
    if (num_members == 1) return;
    int64_t began = now_ns();
    wait_for([&] { return done_.load(std::memory_order_acquire) == num_members - 1; });
    waited_ns_ += now_ns() - began;
}

void ThreadTeam::serve(int member) {
    uint64_t seen = 0;
    bool is_awake = true;  // it took part in the last call, so that the next one may need it at once
    while (true) {
        for (int i = 0; is_awake && i < kSpins && round_.load(std::memory_order_acquire) == seen && !stopping_; ++i) pause();
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return stopping_ || round_.load(std::memory_order_relaxed) != seen; });
            if (stopping_) return;
            seen = round_.load(std::memory_order_relaxed);
            is_awake = member < active_;
        }
        if (!is_awake) continue;
        (*work_)(member);
        done_.fetch_add(1, std::memory_order_release);
    }
}

void ThreadTeam::barrier(int member) {
    if (active_ == 1) return;
    uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) == active_ - 1) {
        waiting_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1, std::memory_order_release);
        return;
    }
    int64_t began = member ? 0 : now_ns();
    wait_for([&] { return phase_.load(std::memory_order_acquire) != phase; });
    if (!member) waited_ns_ += now_ns() - began;
}

}  // namespace understudy
