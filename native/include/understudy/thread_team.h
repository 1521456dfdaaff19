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

    // The same on members 0 .. active() - 1: on half as many after a call in which member 0 waited for the others longer
    // than it worked, because other programs hold the cores; after some such calls, on twice as many for a trial. Each bad
    // call doubles the number of calls until the next trial, and a row of good ones brings it back to one.
    void run_together(const std::function<void(int)>& work);

    // Inside of either: how many members take part.
    int active() const { return active_; }

    // Inside of either: waits until every member is here.
    void barrier(int member);

private:
    void serve(int member);
    void run_on(int num_members, const std::function<void(int)>& work);

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
    int active_;           // members in this call
    int usual_;            // in the next one
    int patience_ = 1;     // calls until more are tried
    int num_until_trial_ = 0;
    int num_good_ = 0;       // calls since one was bad, trials apart
    int64_t waited_ns_ = 0;  // by member 0 in this call
};

}  // namespace understudy
