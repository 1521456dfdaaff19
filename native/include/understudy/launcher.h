// A thread that computes forward passes one after the other: the next begins the moment the last ends, whatever the callers
// are busy with.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "understudy/model.h"

namespace understudy {

// The arguments of Model::forward; memory behind the pointers is the caller's until the pass was waited for.
struct Pass {
    KvPool* pool = nullptr;
    std::vector<Stretch> stretches;
    std::vector<int32_t> tables;  // that the stretches point into
    float *x = nullptr, *out = nullptr;
    bool is_done = false;         // under the launcher's lock
    std::exception_ptr error;
};

class Launcher {
public:
    explicit Launcher(Model& model);
    ~Launcher();  // when all that was launched was waited for
    Launcher(const Launcher&) = delete;
    Launcher& operator=(const Launcher&) = delete;

    const Model& model() const { return model_; }

    // Returns at once; passes are computed in their order.
    void launch(Pass& pass);
    void wait(Pass& pass);

private:
    void run();

    Model& model_;
    std::mutex mutex_;
    std::condition_variable launched_, done_;
    std::deque<Pass*> passes_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace understudy
