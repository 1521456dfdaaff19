// A team of threads that runs one function together, and the barrier that its phases share. The caller is member 0.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace understudy {

class ThreadTeam {
public:
    explicit ThreadTeam(int size);
    ~ThreadTeam();
    ThreadTeam(const ThreadTeam&) = delete;
    ThreadTeam& operator=(const ThreadTeam&) = delete;

    int size() const { return size_; }

    // Runs work(member) on every member; returns when all are done. One call at a time.
    void run(const std::function<void(int)>& work);

    // Inside `run`: waits until every member is here.
    void barrier();

private:
    void serve(int member);

    int size_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<uint64_t> round_{0};
    std::atomic<int> done_{0};
    std::atomic<bool> stopping_{false};
    alignas(64) std::atomic<int> waiting_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
};

}  // namespace understudy
